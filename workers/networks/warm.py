"""The networks of one worker: described on demand, kept warm within a memory budget, the least recently used let go."""

from __future__ import annotations

import functools
import gc
import hashlib
import platform
import threading
import weakref
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from convscope.recent import Recent
from workers.contract import MethodError
from workers.networks.apart import TRIES, Builder, Deaths, TrialOrder, memory_allowed
from workers.networks.build import LoadedNetwork, load_entry, parameter_count
from workers.networks.card import CardFolder, make_card
from workers.networks.catalogue import Catalogue, Entry, as_summary
from workers.networks.catalogue.uploaded import UPLOADED
from workers.networks.sources.factories import import_apart_first
from workers.networks.trials import Behaviour
from workers.networks.weights import published_path

_LIBRARIES = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "keras", "onnx2torch", "onnxslim")
_FLOAT_BYTES = 4
_LIBRARIES_OF_NETWORKS = ("torchvision", "timm", "zfnet", "alexnet_2012", "digits")
"""Sources that run no code of the operator's."""
_MOST_TRIED_BYTES = 512 * 1024**2
"""Of weights, up to which a network is loaded to try what it can bear when it is described."""


class Networks:
    """Every network a worker can run.

    May be called from several threads at once.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        weights_folder: local and downloaded weights.
        catalogue: the operator's catalogue.toml, if there is one.
        memory_mib: memory for networks kept warm, MiB; one network larger than that is refused.
        default_model: id of the network used when a request names none.
        cards_folder: where cards are kept between starts; without it, beside the weights.
        uploads_folder: where networks lie that callers brought.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        weights_folder: str | Path,
        catalogue: str | Path | None = None,
        memory_mib: int = 4096,
        default_model: str = "efficientnet_lite0",
        cards_folder: str | Path | None = None,
        uploads_folder: str | Path | None = None,
    ) -> None:
        self._folder = Path(weights_folder)
        self._uploads = Path(uploads_folder) if uploads_folder else None
        self._catalogue = Catalogue(Path(catalogue) if catalogue else None, self._folder, self._uploads)
        self._device = torch.device(device)
        self._budget = memory_mib * 1024**2
        self._default = default_model
        self._cards = CardFolder(Path(cards_folder) if cards_folder else self._folder / "cards", self.environment())
        self._deaths = Deaths(Path(cards_folder) if cards_folder else self._folder / "cards", self.environment())
        self._builder: Builder | None = None
        self._warm: Recent[str, LoadedNetwork] = Recent(self._budget, lambda network: network.nbytes)
        # Also those that had to leave, as long as somebody computes with them.
        self._alive: weakref.WeakValueDictionary[tuple[str, str], LoadedNetwork] = weakref.WeakValueDictionary()
        self._known: dict[str, tuple[tuple[Any, ...], str]] = {}
        """Digests by model, each with the stamp that it was made at."""
        self._lock = threading.RLock()
        self._loading: dict[str, threading.Lock] = {}

    def use_builder(self, builder: Builder) -> None:
        """Try networks of the operator's own code in its processes before they are built in this one."""
        self._builder = builder

        def imported(module: str, folder: Path | None) -> str | None:
            order = TrialOrder(
                memory_allowed(self._budget), module=module, folder=None if folder is None else str(folder)
            )
            return builder.died(order)

        import_apart_first(imported)

    def _see_that_it_lives(self, entry: Entry, digest: str) -> None:
        """Refuse a network that died when it was tried apart; try it where it was not.

        Raises:
            MethodError: `network-does-not-run`, with how it died.
        """
        if not entry.operator or entry.source.partition(":")[0] in _LIBRARIES_OF_NETWORKS or self._builder is None:
            return
        kept = self._cards.get(digest)
        if (kept is None or kept["id"] != entry.id) and not self._deaths.tried(digest):
            path, folder = str(self._catalogue.path), str(self._folder)
            order = TrialOrder(memory_allowed(self._budget), entry.id, path, folder)
            self._deaths.note(digest, self._builder.died(order))
        reason = self._deaths.of(digest)
        if reason is not None:
            raise MethodError("network-does-not-run", f"{_died(entry.id, reason)}. Mend {entry.source}")

    def _entry(self, model: str) -> Entry:
        """The entry of that name; one that a caller brought is not even read before a try apart has lived.

        Raises:
            MethodError: `unknown-model`, `weights-unavailable`; `network-does-not-run`, with how it died.
        """
        if UPLOADED in model and self._uploads is not None and self._builder is not None:
            tried = hashlib.sha256(model.encode()).hexdigest()
            if not self._deaths.tried(tried):
                path = str(self._uploads / f"{model}.json")
                self._deaths.note(tried, self._builder.died(TrialOrder(memory_allowed(self._budget), uploaded=path)))
            if (reason := self._deaths.of(tried)) is not None:
                raise MethodError("network-does-not-run", _died(model.partition(UPLOADED)[0], reason))
        return self._catalogue.entry(model)

    def catalogue(self) -> list[dict[str, Any]]:
        """Every entry as JSON (`ModelSummary`), the operator's first, bad ones with their reason."""
        lines = [self._line(entry) for entry in self._catalogue.entries()]
        if self._catalogue.problem is not None and self._catalogue.path is not None:
            lines.insert(0, _file_problem(self._catalogue.path.name, self._catalogue.problem))
        return lines

    def card(self, model: str) -> dict[str, Any]:
        """The network's card as JSON (`ModelCard`).

        Raises:
            MethodError: `unknown-model`, `weights-unavailable`.
        """
        entry = self._entry(model)
        digest = entry.digest(self._folder)
        self._see_that_it_lives(entry, digest)
        kept = self._cards.get(digest)
        if kept is None or kept["id"] != entry.id:
            kept = make_card(entry, digest, self._tried(model, entry))
            self._cards.put(digest, kept)
        return kept

    def _tried(self, model: str, entry: Entry) -> Behaviour | None:
        """What the network can bear; None where trying would cost a download, or much memory."""
        if not self._available(entry) or parameter_count(entry) * _FLOAT_BYTES > min(self._budget, _MOST_TRIED_BYTES):
            return None
        try:
            return self.get(model).behaviour
        except MethodError as error:
            if error.problem != "weights-unavailable" or entry.uploaded is not None:  # whoever brought it has to know
                raise
            return None  # what it lacks is said to those who ask for a result; its layers can be told nevertheless

    def _known_behaviour(self, entry: Entry, digest: str) -> Behaviour | None:
        """What the network can bear, where its card says so."""
        kept = self._cards.get(digest)
        known = kept["behaviour"] if kept is not None and kept["id"] == entry.id else None
        return None if known is None else Behaviour.from_json(known)

    def get(self, model: str, tick: Callable[[], None] | None = None) -> LoadedNetwork:
        """The network, loaded; others are let go if memory is short.

        Args:
            model: catalogue id.
            tick: called now and then while a download goes on.

        Raises:
            MethodError: `unknown-model`, `weights-unavailable`, `out-of-memory`.
        """
        entry = self._entry(model)
        stamp, digest = entry.stamp(self._folder), entry.digest(self._folder)
        with self._lock:
            self._known[model] = (stamp, digest)
            loading = self._loading.setdefault(model, threading.Lock())
        with loading:  # one thread loads a network, others go on with other networks
            held = self._touch(model, digest)
            if held is not None:
                return held
            self._see_that_it_lives(entry, digest)
            needed = parameter_count(entry) * _FLOAT_BYTES
            if needed > self._budget:
                raise MethodError(
                    "out-of-memory",
                    f"{model} needs {needed:,} bytes for its weights, this worker keeps {self._budget:,} for networks",
                )
            with self._lock:
                left = self._warm.make_room(needed)
            self._tidy(left)
            known = self._known_behaviour(entry, digest)
            network = load_entry(entry, self._folder, self._device, tick, behaviour=known)
            with self._lock:
                self._alive[model, digest] = network
                self._tidy(self._warm.put(model, network))
            return network

    def held(self, model: str) -> LoadedNetwork | None:
        """The network if it is in memory and known to be what the catalogue says; nothing is loaded or hashed.

        Raises:
            MethodError: `unknown-model`, `weights-unavailable`.
        """
        with self._lock:
            known = self._known.get(model)
        if known is None:
            return None
        stamp = self._catalogue.entry(model).stamp(self._folder)
        with self._lock:
            return self._alive.get((model, known[1])) if known[0] == stamp else None

    def _touch(self, model: str, digest: str) -> LoadedNetwork | None:
        """The network if it is in memory and still what the catalogue says; now the most recently used."""
        with self._lock:
            network = self._alive.get((model, digest))
            if network is None:
                self._warm.pop(model)
                return None
            self._tidy(self._warm.put(model, network))  # a cast copy for `fast` may have been added since
            return network

    def weights_sha256(self, model: str) -> str:
        """SHA-256 of the network's weights: of their file, or of the tensors where they are random."""
        return self.get(model).weights_sha256

    def loaded(self) -> list[str]:
        """Ids of the networks in memory, least recently used first."""
        with self._lock:
            return self._warm.keys()

    def pull(self, model: str, tick: Callable[[], None] | None = None) -> str:
        """Fetch and check the network's weights ahead of time; their SHA-256."""
        return self.get(model, tick).weights_sha256

    def environment(self) -> str:
        """Digest of the workers' sources, the libraries' versions and the kind of device; part of cache keys."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else platform.machine()
        known = f"{code_digest()} {sorted(libraries().items())} {torch.__version__} {self._device.type} {name}"
        return hashlib.sha256(known.encode()).hexdigest()

    def _tidy(self, left: bool) -> None:
        """Give back what networks held that had to leave; whoever still runs one keeps it alive."""
        if left:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _line(self, entry: Entry) -> dict[str, Any]:
        """The entry as JSON of `ModelSummary`."""
        digest = self._digest(entry)
        line = dict(as_summary(entry, self._default, self._available(entry), digest, self._trouble(entry)))
        if digest is not None and self._deaths.of(digest) is not None:
            line["problem_type"] = "network-does-not-run"
        return line

    def _digest(self, entry: Entry) -> str | None:
        """What an operator's entry says, as a digest; the built-in ones change with the code only."""
        if not entry.operator or entry.problem is not None:
            return None
        try:
            return entry.digest(self._folder)
        except MethodError:
            return None

    def _trouble(self, entry: Entry) -> str | None:
        """Why the entry cannot be used, where a look at the disk tells; a download that is not here yet can be had."""
        if entry.problem is None and entry.weights.startswith("file:"):
            try:
                entry.local_file(self._folder)
            except MethodError as error:
                return error.detail.rstrip(".")
        if entry.problem is None and entry.operator and self._builder is not None:
            digest = self._digest(entry)
            reason = self._deaths.of(digest) if digest is not None else None
            return None if reason is None else f"{_died(entry.id, reason)}. Mend {entry.source}"
        return entry.problem

    def _available(self, entry: Entry) -> bool | None:
        """Whether the entry's weights are at hand, by a look at the disk only."""
        if self._trouble(entry) is not None:
            return False
        if entry.weights == "random" or entry.weights.startswith("file:"):
            return True
        if entry.weights.startswith("package:"):
            path = entry.source_or_raise().package_file
            return path is not None and path.is_file()
        published = {item.name: item.url for item in entry.source_or_raise().published}
        return entry.weights in published and published_path(published[entry.weights], self._folder).is_file()


def _died(model_id: str, reason: str) -> str:
    return f"{model_id} was built in a process apart, and {reason}; {TRIES} tries at most are made"


def _file_problem(name: str, problem: str) -> dict[str, Any]:
    """A line for the catalogue file itself, when it cannot be read as a whole."""
    blank = {"title": name, "source": "", "weights": "", "default": False, "available": False}
    return {"id": name, **blank, "problem": problem}


@functools.cache
def code_digest() -> str:
    """SHA-256 over the sources of `workers`, names and contents."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def libraries() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
