"""What a safetensors file of ours says of itself, for whoever has the file without the job."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from convscope.protocol.operations import operations
from convscope.protocol.results import Manifest

_THE_CALLERS = frozenset({"labels", "deadline_s"})
"""Of a request, what is no part of the computation."""


def metadata(manifest: Manifest, names: Iterable[str]) -> dict[str, str]:
    """The `__metadata__` of a file with these arrays of a result; the format takes texts only, so most is JSON.

    Returns:
        `operation`, `model`; `arrays`: for each array its axes, unit, layer and indices; `request` with every default
        filled in; `provenance`: what made it.
    """
    request = {name: value for name, value in manifest.request.items() if name not in _THE_CALLERS}
    return {
        "operation": manifest.operation,
        "model": manifest.provenance.model,
        "arrays": _text({name: _about(manifest, name) for name in names}),
        "request": _text(request),
        "provenance": _text(manifest.provenance.model_dump(mode="json")),
    }


def _about(manifest: Manifest, name: str) -> dict[str, Any]:
    operation = operations().get(manifest.operation)
    about = operation.about(manifest.request, manifest.facts, name) if operation is not None else None
    return {} if about is None else {key: value for key, value in asdict(about).items() if value is not None}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
