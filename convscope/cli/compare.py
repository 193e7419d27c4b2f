"""`convscope compare A B`: two networks on one image set, and an exit status that a pipeline can act on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from convscope.cli.client import client_of, lines_of
from convscope.cli.flags import Chosen
from convscope.cli.following import cancel, follow
from convscope.cli.requirements import Assessment, Requirement, judge, junit, learn, markdown
from convscope_client import Client, ConvscopeError, Job

INTERRUPTED = 130
NOT_MET = 1
FAILED = 2


@dataclass(frozen=True)
class GateOrder:
    """What a command line asks for.

    Attributes:
        images: id of an image set, or the path of a zip archive.
        fields: further properties of the request to `compare`.
        margin: of `calibrate`, where the learned requirements go.
    """

    model: str
    other_model: str
    images: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    requirements: Sequence[Requirement] = ()
    report: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    picture: Path | None = None
    calibrate: Path | None = None
    margin: float = 1.5


def run(gate: GateOrder, chosen: Chosen) -> int:
    """Compare, judge, write what was asked for.

    Returns:
        0: every requirement is met; 1: some are not; 2: there is no comparison; 130: interrupted.
    """
    screen = Console(stderr=True)
    job: Job[Any] | None = None
    began = time.monotonic()
    with client_of(chosen) as service:
        try:
            job = service.submit("compare", [], fields=_fields(gate, service), wait_s=0)
            follow(job, screen)
            figures = job.result().facts["figures"]
            verdicts = judge(gate.requirements, figures)
            _write(gate, service, job, verdicts, time.monotonic() - began)
        except ConvscopeError as error:
            screen.print("\n".join(lines_of(error)), markup=False, highlight=False)
            return FAILED
        except OSError as error:
            screen.print(f"{error.filename}: {error.strerror}", markup=False, highlight=False)
            return FAILED
        except KeyboardInterrupt:
            cancel(job, screen)
            return INTERRUPTED
    for one in verdicts:
        print(f"{'met     ' if one.holds else 'NOT MET '} {one.reason or f'{one.requirement} ({one.value:.6g})'}")
    if gate.calibrate is not None:
        print(f"learned requirements are in {gate.calibrate}")
    if not verdicts:
        print("\n".join(f"{name} {'none' if value is None else f'{value:.6g}'}" for name, value in figures.items()))
    return 0 if all(one.holds for one in verdicts) else NOT_MET


def _fields(gate: GateOrder, service: Client) -> list[tuple[str, str]]:
    image_set = gate.images
    if not image_set.startswith("set-"):
        image_set = service.upload_image_set(Path(image_set).expanduser())["id"]
    return [("model", gate.model), ("other_model", gate.other_model), ("image_set", image_set), *gate.fields]


def _write(gate: GateOrder, service: Client, job: Job[Any], verdicts: Sequence[Assessment], seconds: float) -> None:
    title = f"{gate.model} and {gate.other_model} compared"
    figures = job.result().facts["figures"]
    if gate.report is not None:
        judged = [
            {"required": str(one.requirement), "value": one.value, "met": one.holds, "reason": one.reason or None}
            for one in verdicts
        ]
        told = {"job": job.document, "requirements": judged}
        gate.report.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if gate.junit is not None:
        gate.junit.write_bytes(junit(title, verdicts, seconds))
    if gate.markdown is not None:
        gate.markdown.write_text(markdown(title, verdicts, figures), encoding="utf-8")
    if gate.picture is not None:
        service.save_result(job.id, gate.picture, "image/png")
    if gate.calibrate is not None:
        remark = f"# learned from {gate.model} and {gate.other_model}, margin {gate.margin:g}\n"
        lines = "".join(f"{one}\n" for one in learn(figures, gate.margin))
        gate.calibrate.write_text(remark + lines, encoding="utf-8")
