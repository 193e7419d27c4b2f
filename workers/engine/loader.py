"""Loads and describes networks in threads, so that a download or a large file never stops the loop."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from workers.contract import MethodError, Network
from workers.engine_config import EngineConfig

log = logging.getLogger(__name__)

THREADS = 4


class NetworkCatalogue(Protocol):
    """What the engine asks of `workers.networks.Networks`; called from several threads at once."""

    def catalogue(self) -> Sequence[Mapping[str, Any]]:
        """A line for each network, as JSON of `ModelSummary`."""
        ...

    def card(self, model: str) -> Mapping[str, Any]:
        """JSON of the `ModelCard`; MethodError `unknown-model`."""
        ...

    def held(self, model: str) -> Network | None:
        """The network if it is in memory and current, at once, or None; MethodError as `get`."""
        ...

    def get(self, model: str) -> Network:
        """The network, loaded and warm; MethodError `weights-unavailable`, `unknown-model`."""
        ...

    def use_builder(self, builder: Any) -> None:
        """Try networks of the operator's own code by it before they are built here."""
        ...

    def environment(self) -> str:
        """Digest of everything else that decides a result: sources, torch, device kind."""
        ...


@dataclass(frozen=True)
class NetworkSource:
    """The networks and what their module says of itself: digest of the sources, versions of the libraries."""

    networks: NetworkCatalogue
    code: str
    libraries: Mapping[str, str]


def open_networks(config: EngineConfig, device: str) -> NetworkSource:
    """The class that the configuration names, made with its plain arguments, and the facts of its module."""
    name, _, attribute = config.networks.partition(":")
    module = importlib.import_module(name)
    state = Path(config.state_folder) if config.state_folder else None
    networks = getattr(module, attribute)(
        device=device,
        weights_folder=Path(config.weights_folder),
        cards_folder=state / "cards" if state is not None else None,
        uploads_folder=state / "networks" if state is not None else None,
        catalogue=Path(config.catalogue) if config.catalogue else None,
        memory_mib=config.networks_mib,
        default_model=config.default_model,
    )
    return NetworkSource(networks, str(module.code_digest()), dict(module.libraries()))


class Loader:
    """Runs calls of the networks in a few threads and hands each answer to `arrived`.

    A network that is in memory, and still what the catalogue says, is handed over without waiting for a thread that
    loads: while others are downloaded, nobody waits for it.

    Args:
        networks: what is called.
        arrived: called with the question, the model and the answer, which may be a MethodError for those who asked; in
            a thread of the loader, or in the caller's.
    """

    def __init__(self, networks: NetworkCatalogue, arrived: Callable[[str, str, Any], None]) -> None:
        self._networks = networks
        self._arrived = arrived
        self._loads = ThreadPoolExecutor(THREADS, thread_name_prefix="load")
        self._describes = ThreadPoolExecutor(THREADS, thread_name_prefix="describe")
        self._lock = threading.Lock()
        self._loading: dict[str, bool] = {}
        """Models that are in the hands of a thread, with whether somebody waits for them."""

    def load(self, model: str) -> None:
        """Have `arrived("network", model, Network | MethodError)` called; once for all who ask while it is loaded."""
        held = self._held(model)
        if held is not None:
            self._arrived("network", model, held)
        with self._lock:
            begun = model in self._loading
            self._loading[model] = self._loading.get(model, False) or held is None
        if not begun:
            self._loads.submit(self._load, model)

    def describe(self, model: str) -> None:
        """Have `arrived("card", model, dict | MethodError)` called."""
        self._describes.submit(lambda: self._arrived("card", model, self._answer(model, self._networks.card)))

    def list(self) -> None:
        """Have `arrived("catalogue", "", list | MethodError)` called."""
        call = lambda _: list(self._networks.catalogue())  # noqa: E731
        self._describes.submit(lambda: self._arrived("catalogue", "", self._answer("", call)))

    def close(self) -> None:
        """Start nothing more; what is being loaded goes on."""
        self._loads.shutdown(wait=False, cancel_futures=True)
        self._describes.shutdown(wait=False, cancel_futures=True)

    def _held(self, model: str) -> Network | None:
        try:
            return self._networks.held(model)
        except MethodError:
            return None  # the thread that loads says why

    def _load(self, model: str) -> None:
        """Load the network, or only tell the networks that it is in use."""
        answer = self._answer(model, self._networks.get)
        with self._lock:
            waited_for = self._loading.pop(model)
        if waited_for:
            self._arrived("network", model, answer)

    def _answer(self, model: str, call: Callable[[str], Any]) -> Any:
        try:
            return call(model)
        except MethodError as error:
            return error
        except Exception as error:
            log.exception("a network failed", extra={"model": model})
            return MethodError("weights-unavailable", f"{model} cannot be used: {type(error).__name__}.")
