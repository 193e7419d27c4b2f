"""What is written by `client/generate.py` is what it writes now, and follows the OpenAPI document."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import convscope_client
from convscope.protocol.operations import operations
from convscope_client import AsyncClient, Client, schemas
from tests.contract.trees import CLIENT, ROOT

DOCUMENT: dict[str, Any] = json.loads((ROOT / "openapi" / "openapi.json").read_text(encoding="utf-8"))
PAGES = {"docs", "front", "read-problem"}
"""Operations of the document that answer people with pages."""
PROTOCOLS = {
    "server-live", "server-ready", "server-metadata", "list-model-names", "model-metadata", "model-ready", "infer",
    "explain",
}  # fmt: skip
"""Operations of protocols that have clients of their own; here `classify`, `feature_maps` and `cam` do the same."""
OTHERWISE = {"cursor", "data", "fields", "format", "wait"}
"""Query parameters that the client minds itself: it turns the pages, says in Accept what it wants, and reads arrays by
themselves; `wait` is `wait_s` of `read_job`."""
HEADERS = {"Prefer", "If-Match", "If-None-Match", "Idempotency-Key", "Cache-Control", "Last-Event-ID"}
"""Headers for which methods have arguments: wait_s, idempotency_key, fresh, after."""
sys.path.insert(0, str(ROOT / CLIENT))
import generate  # noqa: E402 — it lies beside the package, not in it


def described() -> dict[str, dict[str, Any]]:
    """Every operation of the document by its id, but pages and other clients' protocols."""
    found = {one["operationId"]: one for methods in DOCUMENT["paths"].values() for one in methods.values()}
    return {name: one for name, one in found.items() if name not in PAGES | PROTOCOLS}


def copied(to: Path) -> Path:
    shutil.copytree(ROOT / CLIENT, to / CLIENT, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return to / CLIENT


def sources(root: Path) -> dict[str, str]:
    package = root / "convscope_client"
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}


def test_what_is_committed_is_what_the_document_gives(tmp_path: Path) -> None:
    tree = copied(tmp_path)
    generate.write(tree, DOCUMENT)
    committed, fresh = sources(ROOT / CLIENT), sources(tree)
    assert set(committed) == set(fresh)
    stale = [name for name in committed if committed[name] != fresh[name]]
    assert stale == [], "`make openapi` brings the client up to date"


def test_a_new_operation_and_a_new_property_become_methods_and_arguments(tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    components = document["components"]["schemas"]
    post = json.loads(json.dumps(document["paths"]["/v1/cam"]["post"]).replace("CamRequest", "GlareRequest"))
    document["paths"]["/v1/lens-glare"] = {"post": {**post, "operationId": "lens-glare", "summary": "Finds glare."}}
    glare = {"type": "number", "default": 0.5, "description": "How much of it"}
    components["GlareRequest"] = {
        **components["CamRequest"],
        "properties": {**components["CamRequest"]["properties"], "glare": glare},
    }
    tree = copied(tmp_path)
    generate.write(tree, document)
    script = (
        "import inspect; from convscope_client import Client, AsyncClient\n"
        "for one in (Client, AsyncClient):\n"
        "    signature = inspect.signature(one.lens_glare)\n"
        "    print(signature.parameters['glare'], signature.return_annotation)\n"
        "print(Client.lens_glare.__doc__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tree, env={"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert lines[:3] == [
        "glare: 'float | None' = None Job[schemas.CamFacts]",
        "glare: 'float | None' = None AsyncJob[schemas.CamFacts]",
        "Finds glare.",
    ]
    assert "            glare: How much of it. Default: 0.5." in lines


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", sorted(described()))
def test_every_operation_of_the_document_has_its_method(name: str, kind: type[Any]) -> None:
    """By name, with everything in the path and the query, and every header, as an argument of the same name."""
    method = getattr(kind, name.replace("-", "_"))
    arguments = inspect.signature(method).parameters
    one = described()[name]
    asked = {each["name"] for each in one.get("parameters", ()) if each["in"] != "header"} - OTHERWISE
    drawing = set(schemas.Drawing.__annotations__)
    if name in operations():
        asked -= drawing  # a picture is drawn when the result is read
        request = DOCUMENT["components"]["schemas"][f"{named(name)}Request"]["properties"]
        asked |= {each for each in request if each != "images"}
    elif asked & drawing:
        assert str(arguments["drawing"].annotation) == "Unpack[schemas.Drawing]"
        asked -= drawing
    assert asked <= set(arguments)
    assert {each["name"] for each in one.get("parameters", ()) if each["in"] == "header"} <= HEADERS


def named(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("-"))


@pytest.mark.parametrize("name", list(operations()))
def test_a_job_has_the_type_of_its_facts(name: str) -> None:
    hints = get_type_hints(getattr(Client, name.replace("-", "_")), globalns=vars(convscope_client) | globals_of(name))
    assert hints["return"].__args__[0] is getattr(schemas, f"{named(name)}Facts")


def globals_of(name: str) -> dict[str, Any]:
    """What the annotations of a method may name."""
    function = getattr(Client, name.replace("-", "_"))
    names = dict(function.__globals__)
    # Aliases written as text for checkers are read by them, not by Python.
    names["ImagesInput"] = Any
    return names


def test_types_need_nothing_else() -> None:
    """Every schema can be read at run time too, as tools for validation do."""
    for name in DOCUMENT["components"]["schemas"]:
        found = getattr(schemas, name)
        if isinstance(found, type):
            assert get_type_hints(found)
