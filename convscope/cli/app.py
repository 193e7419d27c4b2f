"""The command line: which commands there are and what they do, each in a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from convscope import __version__
from convscope.cli.flags import Chosen, with_settings

# The settings that matter to commands about networks and their weights.
_OF_NETWORKS = ("data", "catalogue", "weights_folder", "default_model")
# Loading every operation takes a moment that the other commands need not spend.
_WITHOUT_OPERATIONS = frozenset(
    {"serve", "api", "worker", "models", "settings", "health", "copy-queue", "compare", "--version"}
)


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application for a command line of these arguments."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        help="Convscope shows what a convolutional network sees, as a REST service.",
    )
    app.callback()(_main)
    app.command()(serve)
    app.command()(api)
    app.command()(worker)
    app.add_typer(_models(), name="models")
    app.command("settings")(list_settings)
    app.command("health")(health)
    app.command("copy-queue")(copy_queue)
    app.command("compare")(compare)
    if not (arguments and arguments[0] in _WITHOUT_OPERATIONS):
        from convscope.cli.run import run_commands

        app.add_typer(run_commands(), name="run")
    return app


def main() -> None:
    """The program `convscope`."""
    build(sys.argv[1:])()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")


def _main(_version: Annotated[bool, _VERSION] = False) -> None:
    pass


@with_settings("serve")
def serve(chosen: Chosen) -> None:
    """Run everything on this machine: an embedded server, the service and one worker."""
    from convscope.cli import serve as launcher

    raise typer.Exit(launcher.serve(chosen))


@with_settings("api")
def api(chosen: Chosen) -> None:
    """Run the service alone, against --redis-url and --artifacts-url."""
    from convscope.cli.parts import become

    become("service", chosen)


@with_settings("worker")
def worker(chosen: Chosen) -> None:
    """Run one worker alone, against --redis-url and --artifacts-url."""
    from convscope.cli.parts import become

    become("workers", chosen)


def list_settings(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As docs/settings.md has it.")] = False,
) -> None:
    """List every setting: variable, flag, default, unit, meaning, commands."""
    from convscope.cli import settings_table

    if as_json:
        print(json.dumps(settings_table.as_json(), indent=2))
    elif as_markdown:
        print(settings_table.as_markdown(), end="")
    else:
        settings_table.show_table()


@with_settings("api")
def health(
    chosen: Chosen,
    part: Annotated[Literal["api", "worker"], typer.Argument(help="Which part of this machine to ask.")],
) -> None:
    """Say whether a part that runs on this machine is well; for containers' health checks."""
    from convscope.cli import health as checks

    wrong = checks.api_health(chosen) if part == "api" else checks.worker_health(chosen)
    if wrong is not None:
        print(f"convscope health: {wrong}", file=sys.stderr)
        raise typer.Exit(1)


@with_settings("serve", only=["data", "redis_url", "redis_mib"])
def copy_queue(
    chosen: Chosen,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="The server that has the queue; else the data folder's own."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove a queue that --redis-url has, also a copy that broke off.")
    ] = False,
) -> None:
    """Copy the queue to the server that --redis-url names, while nothing else runs."""
    from convscope.cli.copy_queue import copy

    raise typer.Exit(copy(chosen, source, replace=replace))


@with_settings("client")
def compare(
    chosen: Chosen,
    model: Annotated[str, typer.Argument(help="The network that there is, by its catalogue id.")],
    other_model: Annotated[str, typer.Argument(help="The one to compare with it.")],
    images: Annotated[
        str, typer.Option("--set", metavar="SET", help="Id of an image set, or a zip archive of images.")
    ],
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="TEXT", help="As 'cka.min >= 0.9'; repeat it for several."),
    ] = None,
    require_file: Annotated[
        Path | None, typer.Option("--require-file", metavar="FILE", help="Requirements, one a line.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="NAME=VALUE", help="A further field of the request, as image_range=0:64."),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="The whole comparison as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="The requirements as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="A summary as Markdown.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="What moved most, as PNG.")] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write requirements that these two, seeds of one training, would meet."),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=1, help="Of --calibrate: how many times as far from equal a figure may be.")
    ] = 1.5,
) -> None:
    """Compare two networks on one image set; exits with 1 where a requirement is not met, and says which."""
    from convscope.cli.compare import GateOrder, run
    from convscope.cli.requirements import Requirement, read_requirements

    try:
        wanted = [Requirement.read(text) for text in require or ()]
        if require_file is not None:
            wanted += read_requirements(require_file.read_text(encoding="utf-8").splitlines())
        pairs = [(name, value) for name, _, value in (text.partition("=") for text in fields or ())]
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    gate = GateOrder(model, other_model, images, pairs, wanted, report, junit, markdown, picture, calibrate, margin)
    raise typer.Exit(run(gate, chosen))


def _said(arch: str | None, classes: str | None, more: Sequence[str]) -> dict[str, Any]:
    """What a command says of a network, as a service takes it."""
    from convscope.catalogue_file import keys_of

    try:
        said = keys_of(more)
        if classes is not None:
            lines = Path(classes).read_text(encoding="utf-8").splitlines()
            said["classes"] = [line.strip() for line in lines if line.strip()]
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    return said if arch is None else {"source": arch, **said}


def _models() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="The networks of the catalogue and their weights.")

    @app.command("list")
    @with_settings("worker", "client", only=[*_OF_NETWORKS, "url", "api_key"])
    def list_models(
        chosen: Chosen, as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False
    ) -> None:
        """List the catalogue: of the service that --url names, else of this machine."""
        from convscope.cli.parts import list_models as listing

        raise typer.Exit(listing(chosen, as_json))

    @app.command("add")
    @with_settings("worker", "client", only=[*_OF_NETWORKS, "url", "api_key"])
    def add(
        chosen: Chosen,
        file: Annotated[str, typer.Argument(metavar="FILE", help="Weights in any format, .pt2, .keras or .onnx.")],
        arch: Annotated[
            str | None, typer.Option(help="Architecture: a name of torchvision or timm, or python:module:factory.")
        ] = None,
        model_id: Annotated[
            str | None, typer.Option("--id", help="Id of the entry; without it the file's name.")
        ] = None,
        classes: Annotated[str | None, typer.Option(help="File of class names, one a line.")] = None,
        more: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="KEY=VALUE", help="More of the entry, as num_classes=5 or preprocess.std=0.5."
            ),
        ] = None,
    ) -> None:
        """Write an entry of the catalogue for a network of yours, after it was built, filled and run.

        With --url it is brought to that service (safetensors or .pt2), if the key may: --set visible_to=all shares it.
        """
        from convscope.cli.parts import bring, networks

        if chosen.settings.url:
            raise typer.Exit(bring(chosen, Path(file), _said(arch, classes, more or []), model_id))
        given = {"--arch": arch, "--id": model_id, "--classes": classes}
        flags = [f"{name}={value}" for name, value in given.items() if value is not None]
        raise typer.Exit(networks(chosen, "add", *flags, *(f"--set={pair}" for pair in more or []), "--", file))

    @app.command("remove")
    @with_settings("worker", "client", only=[*_OF_NETWORKS, "url", "api_key"])
    def remove(chosen: Chosen, model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of the entry.")]) -> None:
        """Take an entry out of the catalogue; its files stay. With --url: one that was brought to that service."""
        from convscope.cli.parts import networks, take_back

        if chosen.settings.url:
            raise typer.Exit(take_back(chosen, model))
        raise typer.Exit(networks(chosen, "remove", "--", model))

    @app.command("pull")
    @with_settings("worker", only=_OF_NETWORKS)
    def pull(
        chosen: Chosen,
        models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Catalogue ids.")],
    ) -> None:
        """Fetch weights ahead of time, into the weights folder."""
        from convscope.cli.parts import networks

        raise typer.Exit(networks(chosen, "pull", *models))

    @app.command("check")
    @with_settings("worker", only=_OF_NETWORKS)
    def check(
        chosen: Chosen,
        models: Annotated[
            list[str] | None, typer.Argument(metavar="[MODEL…]", help="Catalogue ids; without any, all of them.")
        ] = None,
    ) -> None:
        """Check entries of the catalogue: source, weights at hand, checksum."""
        from convscope.cli.parts import networks

        raise typer.Exit(networks(chosen, "check", *(models or [])))

    return app
