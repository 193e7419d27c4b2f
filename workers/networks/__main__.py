"""`python -m workers.networks list | pull MODEL… | check [MODEL…] | add FILE | remove MODEL`: `convscope models`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from convscope import catalogue_file
from convscope.settings import Settings
from workers.contract import MethodError
from workers.networks.build import load_entry, size_refusal
from workers.networks.catalogue import Catalogue
from workers.networks.catalogue.adding import Wish, add
from workers.networks.warm import Networks


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 when any network failed."""
    parser = argparse.ArgumentParser(prog="convscope models")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the catalogue")
    listing.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("pull", help="fetch weights").add_argument("models", nargs="+")
    commands.add_parser("check", help="check entries").add_argument("models", nargs="*")
    commands.add_parser("remove", help="take an entry out").add_argument("model")
    adding = commands.add_parser("add", help="write an entry for a file and check it")
    adding.add_argument("file", type=Path)
    adding.add_argument("--arch")
    adding.add_argument("--id", dest="model_id")
    adding.add_argument("--classes", type=Path)
    adding.add_argument("--set", dest="more", action="append", default=[])
    wish = parser.parse_args(arguments)
    settings = Settings()
    if (trouble := settings.catalogue_trouble) is not None:
        print(f"convscope models: {trouble}", file=sys.stderr)
        return 1
    path = catalogue_file.ensure(settings)
    networks = Networks(weights_folder=settings.weights_location, catalogue=path, default_model=settings.default_model)
    if wish.command == "list":
        return _list(networks, wish.json)
    # A service on this machine may use another data folder than whoever asks here.
    print(f"folder of weights: {settings.weights_location}; catalogue: {path or 'none'}", file=sys.stderr)
    if wish.command in ("add", "remove"):
        if path is None:
            print(f"convscope models: {settings.data} cannot be written", file=sys.stderr)
            return 1
        return _add(wish, path, settings) if wish.command == "add" else _remove(wish.model, path)
    catalogue = Catalogue(path, settings.weights_location)
    if wish.command == "pull":
        return max([_pull(catalogue, model) for model in wish.models])
    if wish.models:
        return max([_pull(catalogue, model, fetch=False) for model in wish.models])
    return _check_all(networks)


def _list(networks: Networks, as_json: bool) -> int:
    lines = networks.catalogue()
    if as_json:
        print(json.dumps(lines))
        return 0
    for line in lines:
        print(f"{line['id']:<32} {line['weights']:<28} {line['problem'] or ('' if line['available'] else 'not here')}")
    return 0


def _pull(catalogue: Catalogue, model: str, *, fetch: bool = True) -> int:
    """Load the network, which fetches and checks its weights, and say their digest."""
    try:
        entry = catalogue.entry(model)
        if not fetch and size_refusal(entry, entry.transform.size) is not None:
            raise MethodError("weights-unavailable", f"{model} does not run on its own input size")
        network = load_entry(entry, catalogue.weights_folder, torch.device("cpu"), fetch=fetch)
    except MethodError as error:
        print(f"{model}: {error.detail}", file=sys.stderr)
        return 1
    read = f" ({network.weights_read})" if network.weights_read else ""
    print(f"{model}: good, SHA-256 {network.weights_sha256}{read}")
    print(f"{model}: {network.outputs.sentence()}")
    return 0


def _add(wish: argparse.Namespace, catalogue: Path, settings: Settings) -> int:
    """Write an entry, and say what was found."""
    try:
        model_id, network = add(
            Wish(wish.file, wish.arch, wish.model_id, wish.classes, wish.more), catalogue, settings.weights_location
        )
    except (MethodError, ValueError, OSError) as error:
        print(f"{wish.file}: {error.detail if isinstance(error, MethodError) else error}", file=sys.stderr)
        return 1
    height, width = network.input_size
    print(f"{model_id}: good, {network.entry.source}, SHA-256 {network.weights_sha256}")
    if network.weights_read:
        print(f"  weights {network.weights_read}")
    print(f"  input {height}×{width}, {len(network.table.layers)} layers; {network.outputs.sentence()}")
    print(f"  entry [networks.{model_id}] in {catalogue}; requests name it by model={model_id}")
    return 0


def _remove(model_id: str, catalogue: Path) -> int:
    """Take an entry out of the catalogue; its files stay."""
    try:
        catalogue_file.write(catalogue, catalogue_file.without_entry(catalogue.read_text("utf-8"), model_id))
    except (ValueError, OSError) as error:
        print(f"convscope models: {error}", file=sys.stderr)
        return 1
    print(f"{model_id}: removed from {catalogue}; its files stay")
    return 0


def _check_all(networks: Networks) -> int:
    """Say which entries have their weights at hand; bad entries count as failures, missing downloads do not."""
    failed = 0
    for line in networks.catalogue():
        if line["problem"] is not None:
            failed = 1
            print(f"{line['id']}: {line['problem']}", file=sys.stderr)
        else:
            print(f"{line['id']}: {'weights at hand' if line['available'] else 'weights not here'} ({line['weights']})")
    return failed


if __name__ == "__main__":
    sys.exit(main())
