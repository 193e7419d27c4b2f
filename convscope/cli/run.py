"""`convscope run OPERATION`: submit, follow with a live bar, save the result, print its facts.

Options come from the operation's own schema, so a new operation has its command without an edit here. Values go to the
service as form fields, just as curl sends them; the service alone checks them.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic.fields import FieldInfo
from rich.console import Console

from convscope.cli.client import client_of, lines_of
from convscope.cli.facts import facts_tables
from convscope.cli.flags import Chosen, flag, with_settings
from convscope.cli.following import cancel, follow
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.render.options import RenderOptions
from convscope_client import Client, ConvscopeError, Job, Upload, schemas
from convscope_client.results import SUFFIXES, media_of

INTERRUPTED = 130
_IMAGE_FIELDS = ("image", "images")
_OWN = ("output", "fresh", "as_json")


@dataclass(frozen=True)
class Order:
    """What a command line asks for."""

    operation: str
    images: list[Upload | dict[str, str]]
    fields: list[tuple[str, str]]
    outputs: list[Path]
    query: dict[str, str]
    fresh: bool
    as_json: bool


def run_commands() -> typer.Typer:
    """The command `run`, with one sub-command for each operation of the registry."""
    app = typer.Typer(no_args_is_help=True, help="Run an operation on a running service and save what it shows.")
    for operation in operations().values():
        app.command(operation.name, help=operation.summary)(_command(operation))
    return app


def _command(operation: Operation[Any]) -> Callable[..., None]:
    properties = {name: field for name, field in operation.request.model_fields.items() if name not in _IMAGE_FIELDS}
    drawing = _drawing_options() if operation.has_picture else {}
    # A property of the request keeps its name; a drawing option of the same name gives way.
    draw_names = {name: f"draw_{name}" if name in properties else name for name in drawing}

    def command(chosen: Chosen, **values: Any) -> None:
        try:
            order = Order(
                operation=operation.name,
                images=_images(values.get("image") or []),
                fields=_fields({name: values[name] for name in properties}),
                outputs=values["output"] or [],
                query={name: values[given] for name, given in draw_names.items() if values[given] is not None},
                fresh=values["fresh"],
                as_json=values["as_json"],
            )
            _check_outputs(order.outputs, operation)
        except OSError as error:
            raise typer.BadParameter(f"{error.filename}: {error.strerror}") from None
        raise typer.Exit(carry_out(order, chosen))

    own = [_output_option(), _flag_option("fresh", "Compute it again even if it was answered before.")]
    own.append(_flag_option("as_json", "Print the job as JSON instead of tables.", "--json"))
    if operation.max_images:
        own.insert(0, _image_option(operation.max_images))
    schemas = operation.request.model_json_schema()["properties"]
    asked = [_property_option(name, field, schemas[name]) for name, field in properties.items()]
    drawn = [_drawing_option(draw_names[name], text) for name, text in drawing.items()]
    chosen_parameter = inspect.Parameter("chosen", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Chosen)
    command.__signature__ = inspect.Signature([chosen_parameter, *own, *asked, *drawn])  # type: ignore[attr-defined]
    return with_settings("client")(command)


def carry_out(order: Order, chosen: Chosen) -> int:
    """Submit, follow, save, print.

    Returns:
        The exit status.
    """
    screen = Console(stderr=True)
    job: Job[Any] | None = None
    with client_of(chosen) as service:
        try:
            job = service.submit(order.operation, order.images, fields=order.fields, wait_s=0, fresh=order.fresh)
            follow(job, screen)
            _save(service, job, order, screen)
            return _show(job, order, Console())
        except ConvscopeError as error:
            screen.print("\n".join(lines_of(error)), markup=False, highlight=False)
        except OSError as error:
            screen.print(f"{error.filename}: {error.strerror}", markup=False, highlight=False)
        except KeyboardInterrupt:
            cancel(job, screen)
            return INTERRUPTED
    return 1


def _save(service: Client, job: Job[Any], order: Order, screen: Console) -> None:
    # The words of the command line go as they are; the service alone reads them.
    drawing = cast(schemas.Drawing, order.query)
    for output in order.outputs:
        service.save_result(job.id, output, media_of(output), **drawing)
        screen.print(f"saved {output}", markup=False, highlight=False)


def _show(job: Job[Any], order: Order, paper: Console) -> int:
    """Print a finished job.

    Raises:
        JobFailedError, JobCancelledError: it did not succeed.
    """
    if order.as_json:
        print(json.dumps(job.document, indent=2, ensure_ascii=False))
    result = job.result()
    if not order.as_json:
        for table in facts_tables(result.facts):
            paper.print(table)
    return 0


def _images(images: Sequence[str]) -> list[Upload | dict[str, str]]:
    """Files, `-` for standard input, or `id:ID` for images that the service already has."""
    ids = [image.removeprefix("id:") for image in images if image.startswith("id:")]
    if ids and len(ids) < len(images):
        raise typer.BadParameter("give either files or ids of images, not both")
    return [{"id": one} for one in ids] or [_image_file(image) for image in images]


def _image_file(image: str) -> Upload:
    if image == "-":
        return Upload("image", sys.stdin.buffer.read())
    path = Path(image).expanduser()
    return Upload(path.name, path.read_bytes())


def _mask_field(mask: str) -> str:
    """A mask as JSON: a file's bytes, or `id:ID` for an image that the service already has."""
    if mask.startswith("id:"):
        return json.dumps({"id": mask.removeprefix("id:")})
    return json.dumps({"base64": base64.b64encode(Path(mask).expanduser().read_bytes()).decode()})


def _fields(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields of a form, one for each time an option was given."""
    fields: list[tuple[str, str]] = []
    for name, value in values.items():
        if name == "mask":
            fields.extend((name, _mask_field(text)) for text in value or [])
        elif isinstance(value, bool):
            fields.append((name, "true" if value else "false"))
        else:
            fields.extend((name, text) for text in ([value] if isinstance(value, str) else value or []))
    return fields


def _check_outputs(outputs: Sequence[Path], operation: Operation[Any]) -> None:
    for output in outputs:
        suffix = output.suffix.lower()
        if suffix not in SUFFIXES or (suffix == ".png" and not operation.has_picture):
            possible = [one for one in SUFFIXES if one != ".png" or operation.has_picture]
            raise typer.BadParameter(f"-o {output}: the name must end in {', '.join(possible)}")
        if not output.absolute().parent.is_dir():
            raise typer.BadParameter(f"-o {output}: there is no folder {output.absolute().parent}")


def _drawing_options() -> dict[str, str]:
    """The options of a drawing with a sentence each, from the docstring of RenderOptions, and `pick`."""
    text = inspect.getdoc(RenderOptions) or ""
    options = {}
    for one in fields(RenderOptions):
        said = re.search(rf"^ +{one.name}: (.+?)(?=^ +\w+: |^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        options[one.name] = " ".join(said.group(1).split()) if said else "How the picture is drawn."
    return {**options, "pick": "One layer or item of the result; without it all are stacked, up to 16."}


def _image_option(most: int) -> inspect.Parameter:
    repeat = f"; repeat it for several, up to {most}" if most > 1 else ""
    text = f"An image file, - for standard input, or id:ID of an uploaded image{repeat}."
    return _parameter("image", list[str] | None, None, typer.Option("--image", "-i", metavar="FILE", help=text))


def _output_option() -> inspect.Parameter:
    text = f"Where to save the result, as its name ends: {', '.join(SUFFIXES)}; repeat it for several."
    return _parameter("output", list[Path] | None, None, typer.Option("--output", "-o", metavar="FILE", help=text))


def _flag_option(name: str, text: str, *names: str) -> inspect.Parameter:
    return _parameter(name, bool, False, typer.Option(*(names or (flag(name),)), help=text))


def _property_option(name: str, field: FieldInfo, schema: Mapping[str, Any]) -> inspect.Parameter:
    text = (field.description or "").replace("[", r"\[")
    panel = "The request"
    default = _default_text(field)
    if field.annotation is bool:
        names = f"{flag(name)}/--no-{flag(name)[2:]}"
        option = typer.Option(names, help=text, rich_help_panel=panel, show_default=default)
        return _parameter(name, bool | None, None, option)
    option = typer.Option(flag(name), metavar=_metavar(schema), help=text, rich_help_panel=panel, show_default=default)
    return _parameter(name, list[str] | None, None, option)


def _drawing_option(name: str, text: str) -> inspect.Parameter:
    help_text = (text[:1].upper() + text[1:]).replace("[", r"\[")
    option = typer.Option(flag(name), metavar="VALUE", help=help_text, rich_help_panel="The picture")
    return _parameter(name, str | None, None, option)


def _parameter(name: str, annotation: Any, default: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


def _default_text(field: FieldInfo) -> str | bool:
    """A property's default as text; nothing to show where the service chooses it."""
    default = field.get_default(call_default_factory=False)
    return str(default) if isinstance(default, str | int | float) else False


def _metavar(schema: Mapping[str, Any]) -> str:
    """A placeholder from a property's JSON schema: its choices, or its type; LIST where commas may be used."""
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    kinds = set(_types(schema))
    if "array" in kinds:
        return "LIST"
    words = {"integer": "INTEGER", "number": "NUMBER", "string": "TEXT", "boolean": "BOOLEAN", "object": "JSON"}
    return words[kinds.pop()] if len(kinds) == 1 else "VALUE"


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    for one in schema.get("anyOf", ()):
        yield from _types(one)
    kind = schema.get("type", "" if "anyOf" in schema else "object")
    if kind not in ("", "null"):
        yield kind
