"""Generators of clients take the committed OpenAPI document without a warning, and give what comes back its types.

Each runs in a folder of its own: their dependencies are not ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convscope.protocol.operations import operations
from convscope_client import Client
from tests.contract.trees import ROOT
from tests.service.support import Service, png_bytes

DOCUMENT = ROOT / "openapi" / "openapi.json"
CONFIG = ROOT / "openapi" / "openapi-python-client.yml"
PYTHON = "openapi-python-client==0.29.1"
NODE = ("openapi-typescript@7.13.0", "typescript@5.9.3")
UV = str(Path(sys.executable).with_name("uv"))

USE_PYTHON = """
import json, sys
from convscope_generated import Client
from convscope_generated.api.operations import feature_maps
from convscope_generated.api.jobs import read_job
from convscope_generated.models import (
    FeatureMapsJob, FeatureMapsRequest, FeatureMapsResult, ImageRef, LayerFacts, ProblemDocument
)
url, image = sys.argv[1:]
client = Client(base_url=url)
asked = FeatureMapsRequest(image=ImageRef(id=image), layer="conv")
job = feature_maps.sync(client=client, body=asked, prefer="wait=20")
assert isinstance(job, FeatureMapsJob) and isinstance(job.result, FeatureMapsResult), job
(layer,) = job.result.facts.layers
assert isinstance(layer, LayerFacts)
assert read_job.sync(job.id, client=client).state == "succeeded"
refused = feature_maps.sync(client=client, body=FeatureMapsRequest(image=ImageRef(id=image), layer="no"))
assert isinstance(refused, ProblemDocument), refused
print(json.dumps([layer.layer, layer.shape, refused.type_]))
"""

USE_TYPESCRIPT = """
import type { components, operations } from "./api";
type Answer<O extends keyof operations> =
  operations[O] extends { responses: { 200: { content: { "application/json": infer A } } } } ? A : never;
export function strongest(job: Answer<"cam">): number {
  if (job.result === null) throw new Error(job.error?.detail);
  return Math.max(...job.result.facts.maps.map((map) => map.probability ?? 0));
}
export const request: components["schemas"]["CamRequest"] = {
  image: { id: "img-1" }, methods: ["gradcam++"], targets: [281, "tabby"],
} as components["schemas"]["CamRequest"];
export function names(job: components["schemas"]["ClassifyJob"]): string[] {
  return job.result?.facts.predictions.flatMap((one) => one.map((each) => each.name)) ?? [];
}
// @ts-expect-error the facts of a job have their own type
export const wrong = (job: Answer<"cam">): number => job.result!.facts.matrices;
// @ts-expect-error a method is one of thirteen
export const misspelt: components["schemas"]["CamRequest"]["methods"] = ["gradcamm"];
"""


def run(*command: str, folder: Path, **variables: str) -> str:
    """What a command says; it must succeed and warn of nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package that openapi-python-client writes, and the folder it is in."""
    folder = tmp_path_factory.mktemp("python")
    said = run(
        UV, "tool", "run", "--from", PYTHON, "openapi-python-client", "generate", "--path", str(DOCUMENT),
        "--config", str(CONFIG), "--meta", "none", "--output-path", "convscope_generated", "--fail-on-warning",
        folder=folder,
    )  # fmt: skip
    assert "warning" not in said.lower() and "omitted" not in said, said
    yield folder


def test_openapi_python_client_gives_every_operation_the_type_of_its_answer(python_client: Path) -> None:
    package = python_client / "convscope_generated"
    for name in operations():
        module = (package / "api" / "operations" / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        job = "".join(word.capitalize() for word in name.split("-")) + "Job"
        assert f"{job}.from_dict(" in module, name
    described = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
    tags = {one["tags"][0].replace(" ", "_") for methods in described.values() for one in methods.values()}
    written = {path.stem for tag in tags for path in (package / "api" / tag).glob("*.py")} - {"__init__"}
    expected = {one["operationId"].replace("-", "_") for methods in described.values() for one in methods.values()}
    assert written == expected


def test_what_it_wrote_speaks_to_the_service(python_client: Path, service: Service, client: Client) -> None:
    image = client.upload_image(png_bytes(value=77))["id"]
    said = run(
        UV, "run", "--no-project", "--quiet", "--with", PYTHON, "python", "-c", USE_PYTHON, service.url, image,
        folder=python_client,
    )  # fmt: skip
    assert json.loads(said.splitlines()[-1]) == ["conv", [8, 6, 6], "/problems/unknown-layer"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_openapi_typescript_gives_types_that_strict_typescript_takes(tmp_path: Path) -> None:
    run("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(tmp_path), *NODE, folder=tmp_path)
    programs = tmp_path / "node_modules" / ".bin"
    said = run(str(programs / "openapi-typescript"), str(DOCUMENT), "-o", "api.d.ts", folder=tmp_path)
    assert "warn" not in said.lower() and "⚠" not in said, said
    (tmp_path / "use.ts").write_text(USE_TYPESCRIPT, encoding="utf-8")
    checked = run(str(programs / "tsc"), "--strict", "--noEmit", "--target", "es2022", "use.ts", folder=tmp_path)
    assert checked.strip() == ""
