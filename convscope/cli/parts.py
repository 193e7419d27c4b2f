"""`convscope api`, `worker` and `models`: the other programs of ours, started as processes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from convscope.cli.client import client_of, lines_of
from convscope.cli.flags import Chosen
from convscope.cli.listing import show
from convscope.cli.processes import python_module
from convscope_client import ConvscopeError, ProblemError

_MISFITS = ("weights-unavailable", "network-does-not-run", "out-of-memory")
"""What a service says of a network that it has and cannot use."""


def become(module: str, chosen: Chosen) -> None:
    """Turn into one of our programs, so that signals and its exit status are its own.

    Raises:
        typer.BadParameter: it has no queue to speak to, or is not installed.
    """
    if not chosen.settings.redis_url:
        raise typer.BadParameter(
            "name the queue with --redis-url or CONVSCOPE_REDIS_URL; `convscope serve` runs one of its own"
        )
    _check_worker_installed(module)
    command = python_module(module)
    os.execve(command[0], command, chosen.environment())


def networks(chosen: Chosen, *arguments: str) -> int:
    """Run the workers' program for networks, its words straight on our terminal.

    Returns:
        Its exit status.
    """
    _check_worker_installed("workers")
    return subprocess.run(
        python_module("workers.networks", *arguments), env=chosen.environment(), check=False
    ).returncode


def list_models(chosen: Chosen, as_json: bool) -> int:
    """List the catalogue: of the service that --url names, else of this machine.

    Returns:
        The exit status.
    """
    screen = Console(stderr=True)
    try:
        models = _models_of_service(chosen) if chosen.settings.url else _models_of_machine(chosen)
    except ConvscopeError as error:
        screen.print("\n".join(lines_of(error)), markup=False, highlight=False)
        return 1
    if as_json:
        print(json.dumps(models, indent=2, ensure_ascii=False))
        return 0
    rows = []
    for model in models:
        at_hand = {True: "yes", False: "no"}.get(model.get("available"), "–")  # type: ignore[arg-type]
        name = f"{model['id']} (default)" if model.get("default") else str(model["id"])
        rows.append((name, str(model["weights"]), str(model["source"]), at_hand, model.get("problem") or ""))
    show(("id", "weights", "source", "at hand", "problem"), rows)
    return 0


def bring(chosen: Chosen, file: Path, said: Mapping[str, Any], model_id: str | None) -> int:
    """Bring a network to the service that --url names, and see that it can be used there; else take it back.

    Args:
        file: safetensors or .pt2.
        said: what is said of it, as `NetworkRequest` has it.
        model_id: None takes the file's name.

    Returns:
        The exit status.
    """
    screen = Console(stderr=True)
    name = model_id or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "network"
    try:
        with client_of(chosen) as service:
            service.put_model(name, file, entry=said)
            try:
                card = service.read_model(name)
            except ProblemError as error:
                if error.name in _MISFITS:
                    service.delete_model(name)
                raise
    except (ConvscopeError, OSError) as error:
        lines = lines_of(error) if isinstance(error, ConvscopeError) else [str(error)]
        screen.print("\n".join(lines), markup=False, highlight=False)
        return 1
    print(f"{name}: good, {len(card['layers'])} layers; requests name it by model={name}")
    return 0


def take_back(chosen: Chosen, model_id: str) -> int:
    """Have the service that --url names forget a network that was brought.

    Returns:
        The exit status.
    """
    try:
        with client_of(chosen) as service:
            service.delete_model(model_id)
    except ConvscopeError as error:
        Console(stderr=True).print("\n".join(lines_of(error)), markup=False, highlight=False)
        return 1
    print(f"{model_id}: forgotten")
    return 0


def _models_of_service(chosen: Chosen) -> Sequence[dict[str, Any]]:
    with client_of(chosen) as service:
        return [dict(model) for model in service.list_models()["models"]]


def _models_of_machine(chosen: Chosen) -> Sequence[dict[str, Any]]:
    _check_worker_installed("workers")
    command = python_module("workers.networks", "list", "--json")
    done = subprocess.run(command, env=chosen.environment(), stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    models: list[dict[str, Any]] = json.loads(done.stdout)
    return models


def _check_worker_installed(module: str) -> None:
    if module.startswith("workers") and importlib.util.find_spec("torch") is None:
        raise typer.BadParameter("the worker is not installed here: `pip install 'convscope[worker]'`")
