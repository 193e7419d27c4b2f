"""Every setting as a flag of the commands that use it, made from convscope/settings.py.

A setting that is named here nowhere is a flag of every part, so a new one needs no edit to be usable.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from convscope.settings import Settings, said

PREFIX = "CONVSCOPE_"

Part = Literal["serve", "api", "worker", "client"]
PARTS: tuple[Part, ...] = get_args(Part)

_SERVE = frozenset({"redis_mib"})
_API = frozenset(
    {"host", "port", "hosts", "cors_origins", "api_keys_file", "allow_anonymous", "service_memory_mib"}
    | {"body_mib", "body_timeout_s", "megapixels", "images_per_request"}
    | {
        "image_set_images",
        "image_set_mib",
        "image_set_megapixels",
        "request_megapixels",
        "request_kib",
        "inline_numbers",
        "quick_wait_s",
        "longest_wait_s",
        "card_wait_s",
    }
    | {"network_mib", "caller_networks", "caller_networks_gib"}
    | {"lane_depth", "caller_jobs", "caller_forwards", "quick_forwards"}
)
_WORKER = frozenset(
    {"catalogue", "weights_folder", "default_model", "device", "threads", "memory_mib", "networks_mib"}
    | {
        "tile",
        "maco_spectrum",
        "quick_runs",
        "interactive_runs",
        "batch_runs",
        "stall_s",
        "store_patience_s",
        "drain_s",
    }
    | {"renew_s", "crashes"}
)
_CLIENT = frozenset({"url", "api_key"})
_ALSO_CLIENT = frozenset({"host", "port"})
"""Where `run` and `models` look for the service when no address is given."""


@dataclass(frozen=True)
class Chosen:
    """The settings in force, and those given as flags as environment variables for the processes started."""

    settings: Settings
    variables: Mapping[str, str]

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment with the flags given, and `more` over them, for a program of ours.

        Our packages have plain names (`service`); PYTHONSAFEPATH keeps folders of such names in the working folder from
        being taken for them, also in what the program starts in its turn.
        """
        return {**os.environ, "PYTHONSAFEPATH": "1", **self.variables, **more}


def used_by(name: str) -> tuple[Part, ...]:
    """The parts that use a setting."""
    if name in _CLIENT:
        return ("client",)
    if name in _SERVE:
        return ("serve",)
    parts: tuple[Part, ...] = ("serve", "api", "worker")
    if name in _API:
        parts = ("serve", "api")
    elif name in _WORKER:
        parts = ("serve", "worker")
    return (*parts, "client") if name in _ALSO_CLIENT else parts


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def default_text(name: str) -> str:
    """A setting's default in words that are the same on every machine."""
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "the user's data folder"
    return "none" if field.default is None else str(field.default)


def kind(field: FieldInfo) -> str:
    """A setting's type as a placeholder: a choice, a number, a path or text."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    known: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH", bool: "BOOLEAN"}
    return known.get(annotation, "TEXT")


def with_settings(
    *parts: Part, only: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command whose first parameter is `chosen: Chosen` with a flag for each setting that the parts use.

    `only` names those of them that matter to this command, where it does less than its part.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        names = [
            name for name in Settings.model_fields if set(parts) & set(used_by(name)) and (only is None or name in only)
        ]
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        def with_flags(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(choose(given), **values)

        with_flags.__name__ = command.__name__
        with_flags.__doc__ = command.__doc__
        options = [_option(name, Settings.model_fields[name]) for name in names]
        with_flags.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return with_flags

    return decorate


def choose(given: Mapping[str, str | None]) -> Chosen:
    """The settings from flags, then environment, then defaults.

    Raises:
        typer.BadParameter: a value that its setting does not take.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**flags)  # type: ignore[arg-type]  # pydantic converts the text
    except ValidationError as error:
        raise typer.BadParameter(said(error)) from None
    return Chosen(settings, {variable(name): value for name, value in flags.items()})


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    # Taken as text, so that conversion and limits stand in Settings alone, for flags and variables alike.
    option = typer.Option(
        flag(name),
        metavar=kind(field),
        help=f"{field.description} [{variable(name)}]".replace("[", r"\["),
        show_default=False if field.get_default() is None and field.default_factory is None else default_text(name),
        rich_help_panel="Settings, each also an environment variable",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )
