"""`python -m workers.networks list [--json] | pull MODEL… | check [MODEL…]`, what `convscope models` runs."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from convscope.settings import Settings
from workers.contract import MethodError
from workers.networks.build import load_entry, size_refusal
from workers.networks.catalogue import Catalogue
from workers.networks.warm import Networks


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 when any network failed."""
    parser = argparse.ArgumentParser(prog="convscope models")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the catalogue")
    listing.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("pull", help="fetch weights").add_argument("models", nargs="+")
    commands.add_parser("check", help="check entries").add_argument("models", nargs="*")
    wish = parser.parse_args(arguments)
    settings = Settings()
    if (trouble := settings.catalogue_trouble) is not None:
        print(f"convscope models: {trouble}", file=sys.stderr)
        return 1
    networks = Networks(
        weights_folder=settings.weights_location, catalogue=settings.catalogue, default_model=settings.default_model
    )
    if wish.command == "list":
        return _list(networks, wish.json)
    # A service on this machine may use another data folder than whoever asks here.
    print(f"folder of weights: {settings.weights_location}; catalogue: {settings.catalogue or 'none'}", file=sys.stderr)
    catalogue = Catalogue(settings.catalogue, settings.weights_location)
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
    print(f"{model}: good, SHA-256 {network.weights_sha256}")
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
