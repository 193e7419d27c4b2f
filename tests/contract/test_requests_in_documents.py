"""Every request that a document shows would be taken: its fields, layers, channels and classes; nothing is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import CommonRequest
from convscope.settings import Settings
from service.intake.forms import IMAGE_FIELDS, read_fields, read_json, validate
from tests.contract.curl import Curl, curls
from tests.contract.trees import ROOT
from tests.convscope.protocol.operations.real_cards import card_of

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
DEFAULT_MODEL = str(Settings.model_fields["default_model"].default)


def accepted(operation: str, asked: CommonRequest) -> CommonRequest:
    """The request with its defaults filled in for its network, the default one unless it names one.

    Raises:
        ProblemError: a layer, channel or class that the network has not.
    """
    return operations()[operation].resolve(asked, card_of(asked.model or DEFAULT_MODEL))


def request_of(curl: Curl) -> CommonRequest:
    """What a command asks for, its files taken as uploaded."""
    operation = operations()[curl.path.removeprefix("/v1/")]
    if curl.data is not None:
        assert curl.headers["Content-Type"] == "application/json"
        return validate(operation, read_json(curl.data.encode()))
    files = [name for name, value in curl.fields if value.startswith("@")]
    assert set(files) <= IMAGE_FIELDS
    data = read_fields(operation, [(name, value) for name, value in curl.fields if not value.startswith("@")])
    images = [{"id": f"image-{number}"} for number in range(len(files))]
    given: dict[str, Any] = {"image": images[0]} if len(images) == 1 else {"images": images} if images else {}
    return validate(operation, {**data, **given})


def written_objectives(text: str) -> list[Any]:
    """Objectives in a document's running text that are whole: without "…" and without names that lack a value."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = []
    for inline in re.findall(r"`(\{[^`]*\})`", plain):
        try:
            value = json.loads(inline)
        except json.JSONDecodeError:
            continue
        if value.keys() & {"class", "layer", "unit", "sum"}:
            found.append(value)
    return found


def shown(under: str = "") -> list[Any]:
    """Every command of the documents below a folder that asks an operation, with where it stands."""
    return [
        pytest.param(curl, id=f"{document.relative_to(ROOT)}-{number}")
        for document in DOCUMENTS
        for number, curl in enumerate(curls(document.read_text(encoding="utf-8")))
        if curl.method == "POST"
        and str(document.relative_to(ROOT)).startswith(under)
        and curl.path.removeprefix("/v1/") in operations()
    ]


@pytest.mark.parametrize("curl", shown())
def test_a_command_would_be_taken(curl: Curl) -> None:
    asked = request_of(curl)
    accepted(curl.path.removeprefix("/v1/"), asked)


@pytest.mark.parametrize("curl", shown("docs/methods/"))
def test_a_command_that_saves_a_picture_waits_for_it(curl: Curl) -> None:
    if curl.output is not None:
        assert curl.headers["Accept"] == "image/png"
        assert curl.headers["Prefer"] == f"wait={Settings.model_fields['longest_wait_s'].default:g}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_objectives_in_running_text_would_be_taken(document: Path) -> None:
    operation = operations()["maximize"]
    for objective in written_objectives(document.read_text(encoding="utf-8")):
        accepted("maximize", validate(operation, {"objective": objective}))


def test_objectives_are_found() -> None:
    text = 'a `{"class": 281}`, b `{"layer": …}`, c `{"state": "queued"}`\n```\n`{"class": 1}`\n```\n'
    assert written_objectives(text) == [{"class": 281}]


def test_every_operation_has_a_command_on_its_page() -> None:
    paths = {
        name: [curl.path for curl in curls((ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8"))]
        for name in operations()
    }
    assert [name for name, seen in paths.items() if f"/v1/{name}" not in seen] == []


@pytest.mark.parametrize(
    "line",
    [
        """curl -F objective='{"class": "tabby, tabby cat"}' http://h/v1/maximize""",
        "curl http://h/v1/kernels -F layer=conv2_1 -F filters=top:4",
        "curl -F image=@cat.jpg -F target=1000 http://h/v1/saliency",
        "curl -F image=@cat.jpg -F layer=blocks.2 -F channels=4000 http://h/v1/feature-maps",
        "curl -F image=@cat.jpg -F layr=blocks.2 http://h/v1/feature-maps",
    ],
)
def test_what_would_be_refused_is_found(line: str) -> None:
    curl = Curl(line)
    with pytest.raises(ProblemError):
        accepted(curl.path.removeprefix("/v1/"), request_of(curl))
