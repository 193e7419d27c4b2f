"""The version of this package, as it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("convscope-client")
except PackageNotFoundError:  # imported from its folder, without having been installed
    __version__ = "0"
