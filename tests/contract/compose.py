"""docker-compose.yml as its tests read it: merged, with variables put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.contract.trees import ROOT

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


class MissingVariableError(Exception):
    """A variable that the file demands is not given."""


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with merges applied and `${NAME}`, `${NAME:-default}`, `${NAME:?why}` and `$$` resolved."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = _resolve(yaml.safe_load(text), variables)
    return loaded


def _resolve(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _resolve(one, variables) for name, one in value.items()}
    if isinstance(value, list):
        return [_resolve(one, variables) for one in value]
    return _VARIABLE.sub(lambda found: _put_in(found, variables), value) if isinstance(value, str) else value


def _put_in(found: re.Match[str], variables: Mapping[str, str]) -> str:
    dollar, name, kind, text = found.groups()
    if dollar:
        return "$"
    given = variables.get(name, "")
    if not given and kind == "?":
        raise MissingVariableError(f"{name}: {text}")
    return given or (text if kind == "-" else "")
