"""Finds the methods: every module of a package that defines `METHOD`. Nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil

from workers.contract import IterativeMethod, Method, OneShotMethod


def find_methods(package: str = "workers.methods") -> dict[str, Method]:
    """The methods of a package by operation: `feature_maps.py` defines the one of `feature-maps`.

    Raises:
        TypeError: a `METHOD` is neither a OneShotMethod nor an IterativeMethod.
    """
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        method = getattr(importlib.import_module(f"{package}.{module.name}"), "METHOD", None)
        if method is None:
            continue
        if not isinstance(method, OneShotMethod | IterativeMethod):
            raise TypeError(f"{package}.{module.name}.METHOD is a {type(method).__name__}, not a method")
        found[module.name.replace("_", "-")] = method
    return found
