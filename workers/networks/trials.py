"""What a network can bear, found by trying: layouts, company, repetition, quicker arithmetic.

Networks of libraries bear everything; somebody's own network often does not, and would be answered wrongly or not at
all. A few forwards on noise tell, once for each network and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import MethodError
from workers.networks.failures import RAISED, outputs_of, reason_of, rows_refusal, where_it_fails
from workers.networks.fast import has_bfloat16, make_fast
from workers.passes.calls import observed_class

_SAME = 1e-4
"""Share of an output's largest value by which roundings may differ: another layout or batch sums in another order."""

_FAST_SHARE = 0.25
"""The same of bfloat16, whose numbers have eight bits: more is no rounding."""

_SEED = 20240229


@dataclass(frozen=True)
class Behaviour:
    """What a network can bear at its own input size.

    Attributes:
        channels_last: whether it runs, with the same answer, on tensors whose channels lie next to each other in
            memory; a network that does not gets contiguous ones, everywhere.
        alone: None where an image's answer is its own; else why each image is given to the network by itself.
        random: whether two runs on one image differ, in evaluation mode.
        fast: arithmetic of precision `fast`: `bfloat16` or `float32`.
        fast_reason: why it is float32 although the device has bfloat16.
    """

    channels_last: bool = True
    alone: str | None = None
    random: bool = False
    fast: str = "float32"
    fast_reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    def notes(self, name: str, precision: str) -> list[str]:
        """What a reader of results must know of it, a sentence each.

        Args:
            name: of the network.
            precision: `exact` or `fast`.
        """
        notes = []
        if self.alone is not None:
            notes.append(f"{name} was given each image by itself: {self.alone}.")
        if self.random:
            notes.append(f"{name} is random in evaluation: another run gives another answer, and none is kept.")
        if precision == "fast" and self.fast_reason is not None:
            notes.append(f"{name} computed in float32 although precision is fast: {self.fast_reason}.")
        return notes

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Behaviour:
        """What `as_json` gave."""
        return cls(**value)


def try_out(
    name: str, network: nn.Module, input_size: tuple[int, int], channels: int, known: Behaviour | None = None
) -> Behaviour:
    """Run a network on noise a few times and see what it can bear; it is left as it was.

    Args:
        name: of the network, for errors.
        network: with its weights, float32, in evaluation mode, on its device.
        input_size: (height, width), pixels.
        channels: planes of the input.
        known: what it can bear, where that was tried before: then it runs once.

    Raises:
        MethodError: `network-does-not-run`: not even on one image, or it gives other than one row of answers for one.
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(2, channels, *input_size, generator=generator)
    # The second image is no neighbour of the first: statistics taken over both would differ from those of one.
    noise = torch.stack([noise[0], 3.0 * noise[1] + 0.5]).to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(_SEED)
        trial = _Trial(name, network, noise)
        if known is not None:
            trial.alone()
            return known
        return trial.run()


class _Trial:
    """One network on its noise."""

    def __init__(self, name: str, network: nn.Module, noise: Tensor) -> None:
        self._name = name
        self._network = network
        self._noise = noise
        self._one = noise[:1].contiguous()
        self._size = (int(noise.shape[2]), int(noise.shape[3]))
        self._size = (int(noise.shape[2]), int(noise.shape[3]))

    def run(self) -> Behaviour:
        """Everything that is tried."""
        one = self.alone()
        rearranged = self._attempt(self._network, self._one.contiguous(memory_format=torch.channels_last))
        channels_last, random = _agree(one, rearranged), False
        if not channels_last:
            random = not _agree(one, self._attempt(self._network, self._one))
            channels_last = random and not isinstance(rearranged, str)
        company = None if random and self._rows_of_two() else self._company(one)
        fast, channels_last, reason = self._fast(one, channels_last, random)
        return Behaviour(channels_last, company, random, fast, reason)

    def alone(self) -> list[Tensor]:
        """The outputs for one image."""
        found = self._attempt(self._network, self._one)
        if isinstance(found, str):
            where = where_it_fails(self._network, self._one)
            planes, height, width = self._one.shape[1:]
            raise MethodError(
                "network-does-not-run",
                f"{self._name} does not run on one input of {planes}×{height}×{width} numbers{where}: {found}",
            )
        return found

    def _rows_of_two(self) -> bool:
        found = self._attempt(self._network, self._noise)
        return not isinstance(found, str) and bool(found) and found[0].dim() > 0 and len(found[0]) == 2

    def _company(self, one: list[Tensor]) -> str | None:
        """Why images cannot share a batch, if they cannot."""
        both = self._attempt(self._network, self._noise)
        if isinstance(both, str):
            return f"it takes one image at a time: {both}"
        if len(both) != len(one):
            return "it gives other outputs for two images than for one"
        for own, shared in zip(one, both, strict=True):
            if shared.dim() == 0 or len(shared) != 2:
                return f"it gives {shared.shape[0] if shared.dim() else 1} rows of answers for two images"
            if not _near(own.flatten(), shared[0].flatten(), _SAME):
                return "its answer to an image depends on the other images of its batch"
        return None

    def _fast(self, one: list[Tensor], channels_last: bool, random: bool) -> tuple[str, bool, str | None]:
        """The arithmetic of precision `fast`, the layout with which it runs, and why it is not the device's quickest.

        Weights laid out with the channels last make maps of that layout, too, also where the input has one plane, whose
        two layouts are one: so the copy tells more than the input alone did.
        """
        kinds = [torch.bfloat16, torch.float32] if has_bfloat16(self._one.device) else [torch.float32]
        reason: str | None = None
        for layout in (True, False) if channels_last else (False,):
            for dtype in kinds:
                trouble = self._trouble_of_fast(one, dtype, layout, random)
                if trouble is None:
                    return str(dtype).removeprefix("torch."), layout, reason if dtype is not kinds[0] else None
                reason = reason if dtype is not kinds[0] else trouble
        return "float32", False, reason

    def _trouble_of_fast(self, one: list[Tensor], dtype: torch.dtype, layout: bool, random: bool) -> str | None:
        try:
            fast = make_fast(self._network, dtype, channels_last=layout)
        except RAISED as error:
            return reason_of(error)
        found = self._attempt(fast, self._one)
        if isinstance(found, str):
            return found
        if random:
            return None
        for own, quick in zip(one, found, strict=False):
            if own.isfinite().all() and not quick.isfinite().all():
                return f"in {dtype} its answers leave the finite numbers".replace("torch.", "")
            if not _near(own.flatten(), quick.flatten(), _FAST_SHARE):
                return f"in {dtype} its answers are others".replace("torch.", "")
        return None

    def _attempt(self, network: nn.Module, inputs: Tensor) -> list[Tensor] | str:
        """The outputs on a copy of the inputs, or why there are none."""
        try:
            output = network(inputs.clone(memory_format=torch.preserve_format))
        except RAISED as error:
            return reason_of(error)
        refusal = rows_refusal(output, self._size) if len(inputs) == 1 else None
        return list(outputs_of(output)) if refusal is None else f"it {refusal}"


def _agree(one: list[Tensor], other: list[Tensor] | str) -> bool:
    if isinstance(other, str) or len(one) != len(other):
        return False
    return all(_near(first, second, _SAME) for first, second in zip(one, other, strict=True))


def _near(own: Tensor, other: Tensor, share: float) -> bool:
    """Whether two outputs differ by roundings only."""
    if own.shape != other.shape:
        return False
    own, other = own.detach().float(), other.detach().float()
    finite = own.isfinite()
    if not bool(finite.any()):
        return not bool(other.isfinite().any())
    scale = float(own[finite].abs().max())
    return bool((finite == other.isfinite()).all()) and float((own - other)[finite].abs().max()) <= share * scale + 1e-7


def keep_contiguous(network: nn.Module) -> None:
    """Make a network, in place, lay its inputs out contiguously whatever it is given.

    Its calls are observed as those of the class that it was.
    """
    kind = type(network)

    def forward(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, inputs.contiguous(), *args, **kwargs)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "observed_as": observed_class(network)})
