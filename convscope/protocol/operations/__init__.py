"""The registry: every module of this package that defines `OPERATION` is an operation. Nothing else lists them.

May import convscope.protocol.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from convscope.protocol.operations.base import Operation


@cache
def operations() -> dict[str, Operation[Any]]:
    """All operations by name, in alphabetical order."""
    found: dict[str, Operation[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        operation = getattr(importlib.import_module(f"{__name__}.{module.name}"), "OPERATION", None)
        if operation is not None:
            if operation.name.replace("-", "_") != module.name:
                raise RuntimeError(f"{module.name}.py defines the operation {operation.name!r}; the names must agree")
            found[operation.name] = operation
    return dict(sorted(found.items()))
