"""Class activation maps that run the network again: Score-CAM (masked inputs) and Ablation-CAM (removed channels).

Both serve all targets of an image from the same forwards, in chunks, and keep no activation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.contract import Outputs
from workers.passes.calls import capture
from workers.passes.class_targets import ClassTarget
from workers.passes.scores import as_logits, logits_of, read

Chunks = Callable[[], int]
"""How many rows the next forward may hold."""


def score_weights(
    network: nn.Module,
    inputs: Tensor,
    activation: Tensor,
    targets: Sequence[ClassTarget],
    outputs: Outputs,
    chunk: Chunks,
) -> Generator[float, None, Tensor]:
    """Score-CAM's weights (Wang 2020, equations 3 to 5) for several classes of one image: T×C, each row sums to 1.

    The mask of a channel is its map, upsampled and scaled to [0, 1]; its score the logit of the masked input; the
    weights a softmax over the channels, in which the paper's baseline cancels. Channels that do not vary have a mask
    of zeros and share one forward.

    Args:
        network: takes and returns float32.
        inputs: 1×3×H×W.
        activation: 1×C×h×w, maps of the target layer.
        targets: T classes.
        outputs: how the network's output is read.
        chunk: rows of the next forward.

    Yields:
        The share done, after each forward.
    """
    maps = activation[0]
    flat = maps.flatten(1)
    varies = (flat.amax(dim=1) > flat.amin(dim=1)).nonzero()[:, 0]
    scores = torch.empty(len(targets), len(maps), dtype=torch.float64, device=inputs.device)
    if len(varies) < len(maps):
        scores[:] = _values(network, torch.zeros_like(inputs), targets, outputs)
    start = 0
    while start < len(varies):
        part = varies[start : start + chunk()]
        up = F.interpolate(maps[part][:, None], size=inputs.shape[2:], mode="bilinear", align_corners=True)
        low, high = up.amin(dim=(2, 3), keepdim=True), up.amax(dim=(2, 3), keepdim=True)
        scores[:, part] = _values(network, inputs * ((up - low) / (high - low)), targets, outputs)
        start += len(part)
        yield start / len(varies)
    return scores.softmax(dim=1).to(activation)


def ablation_weights(
    network: nn.Module,
    inputs: Tensor,
    layer: str,
    activation: Tensor,
    targets: Sequence[ClassTarget],
    scores: Sequence[float],
    outputs: Outputs,
    chunk: Chunks,
) -> Generator[float, None, Tensor]:
    """Ablation-CAM's weights (Desai 2020, equation 3) for several classes of one image: (y − y_−k)/y, T×C.

    A removed channel is zero, as in the paper; pytorch-grad-cam puts −10⁷ there for layers that can be negative. The
    network runs on one image up to the layer and on the chunk of altered copies from there on.

    Args:
        network: takes and returns float32.
        inputs: 1×3×H×W.
        layer: the target layer's call.
        activation: its output, 1×C×h×w.
        targets, scores: T classes, and y of each.
        outputs: how the network's output is read.
        chunk: rows of the next forward.

    Yields:
        The share done, after each forward.
    """
    channels = activation.shape[1]
    base = torch.tensor(list(scores), dtype=torch.float64, device=inputs.device)
    # Removing a channel that is zero everywhere changes nothing.
    alive = activation[0].flatten(1).ne(0).any(dim=1).nonzero()[:, 0]
    dropped = base[:, None].repeat(1, channels)
    start = 0
    while start < len(alive):
        part = alive[start : start + chunk()]

        def ablated(output: Tensor, removed: Tensor = part) -> Tensor:
            copies = output.expand(len(removed), *output.shape[1:]).clone()
            copies[torch.arange(len(removed), device=removed.device), removed] = 0
            return copies

        with torch.no_grad(), _ExpandBatches(), as_logits(outputs):
            _, out = capture(network, inputs, (), change={layer: ablated}, to_output=True)
        logits = read(outputs, out, len(part))
        dropped[:, part] = torch.stack([target.values(logits).double() for target in targets])
        start += len(part)
        yield start / len(alive)
    return torch.where(base[:, None] != 0, (base[:, None] - dropped) / base[:, None], 0.0).to(activation)


def linear_ablation_weights(activation: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
    """Ablation-CAM's weights where the score is affine in A: y − y_−k = Σ_ij g A_k, so no forward is needed: N×C."""
    drop = (gradient * activation).sum(dim=(2, 3))
    return torch.where(score[:, None] != 0, drop / score[:, None], 0.0)


def _values(network: nn.Module, inputs: Tensor, targets: Sequence[ClassTarget], outputs: Outputs) -> Tensor:
    """The targets' logits for each input, T×N, float64."""
    with torch.no_grad():
        logits = logits_of(network, inputs, outputs)
    return torch.stack([target.values(logits).double() for target in targets])


class _ExpandBatches(TorchFunctionMode):
    """Lets tensors of one image be concatenated with a batch, as broadcasting already lets them be added."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.cat, torch.concat, torch.concatenate):
            parts = list(args[0])
            most = max(part.shape[0] for part in parts)
            args = ([part.expand(most, *part.shape[1:]) if part.shape[0] == 1 else part for part in parts], *args[1:])
        return func(*args, **(kwargs or {}))
