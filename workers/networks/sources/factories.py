"""The operator's own factories, `python:package.module:factory`, found beside the catalogue or where Python looks.

A module that was edited is seen: what was imported of it is forgotten and imported again, so that networks which are
in memory keep the code that they were made by, and new ones have the new.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from workers.networks.preprocess import Preprocessing
from workers.networks.sources.source import Options, Source, SourceError

_importing = threading.RLock()
_versions: dict[str, tuple[int, int]] = {}
"""Modules of operators by name, with the version of the file that they were imported from."""


_apart: Callable[[str, Path | None], str | None] | None = None
"""Imports a module in a process apart and tells how that died, where it did."""


def import_apart_first(trial: Callable[[str, Path | None], str | None]) -> None:
    """From now on have modules imported by `trial` before they are imported in this process."""
    global _apart
    _apart = trial


def factory_source(target: str, options: Options) -> Source:
    """The source of a factory.

    Raises:
        SourceError: it cannot be imported, or is nothing to call.
    """
    module_name, _, attribute = target.partition(":")
    folder = options.folders[0] if options.folders else None
    with _importing:
        try:
            _forget_what_was_edited()
            _see_that_it_lives(module_name, folder)
            factory = getattr(import_module(module_name, folder), attribute)
        except SourceError:
            raise
        except SystemExit as error:
            raise SourceError(f"python:{target} ends its process when it is imported (exit {error.code})") from error
        except Exception as error:
            said = f"{error}" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise SourceError(f"python:{target} cannot be imported: {said}") from error
        code = tuple(_note(module_name, folder))
    if not callable(factory):
        raise SourceError(f"python:{target} is not callable")
    build = functools.partial(_call, factory, options.classes, dict(options.arguments))
    return Source(f"python:{target}", build, Preprocessing((224, 224), 256), title=target, code=code)


def _see_that_it_lives(name: str, folder: Path | None) -> None:
    """Refuse a module that dies when it is imported.

    Raises:
        SourceError: with how it died.
    """
    if _apart is not None and name not in sys.modules and (reason := _apart(name, folder)) is not None:
        raise SourceError(f"the module {name} was imported in a process apart, and {reason}")


def _call(factory: Callable[..., nn.Module], classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    """The operator's factory, told the number of classes where it takes `num_classes`."""
    try:
        takes = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        takes = {}  # type: ignore[assignment]
    if classes is not None and "num_classes" in takes:
        arguments = {"num_classes": classes} | arguments
    network: nn.Module = _plain(factory(**arguments))
    return network


def _plain(built: Any) -> Any:
    """What a factory gave, as it is differentiated and looked into: not compiled, in float32, nothing of it scripted.

    Raises:
        SourceError: a part of it is a scripted program.
    """
    compiled = getattr(built, "_orig_mod", None)  # torch.compile keeps the module in it
    if isinstance(compiled, nn.Module):
        built = compiled
    if not isinstance(built, nn.Module):
        return built
    scripted = next((path for path, part in built.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        where = f"its part {scripted}" if scripted else "it"
        raise SourceError(
            f"{where} is a scripted program (torch.jit), into which nobody can look; give the module that was "
            "scripted, or export the network by torch.export as FILE.pt2"
        )
    return _in_float32(built)


def _in_float32(network: nn.Module) -> nn.Module:
    """The network, its numbers of half precision in float32, as everything else is here."""
    halves = (torch.float16, torch.bfloat16)
    network._apply(lambda tensor: tensor.float() if tensor.dtype in halves else tensor)  # type: ignore[no-untyped-call]
    return network


def import_module(name: str, folder: Path | None) -> ModuleType:
    """The module; the catalogue's folder is looked through last, so that nothing there hides a library."""
    importlib.invalidate_caches()
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    module = importlib.import_module(name)
    if folder is not None and (near := _beside(name, folder)) is not None:
        found = Path(module.__file__).resolve() if module.__file__ else None
        if found != near:
            raise SourceError(f"{near.name} beside the catalogue is hidden by {name} of {found}; give it another name")
    return module


def _beside(name: str, folder: Path) -> Path | None:
    """The file of a module in the catalogue's folder, if it is there."""
    stem = folder.joinpath(*name.split("."))
    return next((path.resolve() for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)


def _note(name: str, folder: Path | None) -> Iterator[Path]:
    """Write down, and give, the files of the factory's own modules: of its package, and of the catalogue's folder."""
    package = name.partition(".")[0]
    for own, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        path = Path(file)
        if own.partition(".")[0] == package or (folder is not None and path.is_relative_to(folder)):
            version = _version(path)
            if version is not None:
                _versions[own] = version
                yield path


def _forget_what_was_edited() -> None:
    """Where any file of the noted modules changed, forget it and those of its package and its folder.

    Modules that lie side by side may have imported each other by any name.
    """
    edited = [name for name in _versions if name in sys.modules and _changed(name)]
    if not edited:
        return
    packages = {name.partition(".")[0] for name in edited}
    folders = {Path(sys.modules[name].__file__ or "").parent for name in edited}
    for name in list(_versions):
        module = sys.modules.get(name)
        file = Path(module.__file__ or "") if module is not None else None
        if file is None or name.partition(".")[0] in packages or file.parent in folders:
            del _versions[name]
        if file is not None and name not in _versions:
            # Python takes a compiled file for the source's if second and size agree.
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
            del sys.modules[name]


def _changed(name: str) -> bool:
    return _version(Path(sys.modules[name].__file__ or "")) != _versions[name]


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
