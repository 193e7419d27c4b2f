"""The README on a real server: its requests give what it says, and a restart finds what was there."""

from __future__ import annotations

import io
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import safetensors.numpy
from PIL import Image

from tests.contract.curl import Curl, blocks, curls
from tests.contract.trees import ROOT
from tests.convscope.cli.launched import Launched, wait_until

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with Launched(tmp_path_factory.mktemp("readme") / "data", standins=False) as launched:
        assert launched.address
        yield launched


def ask(address: str, curl: Curl) -> httpx2.Response:
    """Send what a curl command would send, to that address."""
    parts = [
        (name, (Path(value).name, (ROOT / value[1:]).read_bytes()) if value.startswith("@") else (None, value))
        for name, value in curl.fields
    ]
    with httpx2.Client(base_url=address, trust_env=False, timeout=120) as client:
        return client.request(curl.method, curl.path, params=curl.query, headers=curl.headers, files=parts or None)


@pytest.mark.parametrize("curl", curls(README), ids=lambda curl: curl.path)
def test_a_request_gives_what_its_file_is_named_for(server: Launched, curl: Curl) -> None:
    answer = ask(server.address, curl)
    assert answer.status_code == 200, answer.text + server.output
    if curl.output is None:
        assert answer.json()["state"] == "succeeded"
    elif Path(curl.output).suffix == ".safetensors":
        arrays = safetensors.numpy.load(answer.content)
        assert arrays["maps/blocks.2.0"].shape[0] == 1 and arrays["maps/blocks.2.0"].ndim == 4
    else:
        picture = Image.open(io.BytesIO(answer.content))
        assert Path(curl.output).suffix == ".png" and picture.format == "PNG"
        assert min(picture.size) > 100


def test_coffee_is_espresso(server: Launched) -> None:
    (curl,) = [curl for curl in curls(README) if curl.path == "/v1/classify"]
    (strongest, *_), *_ = ask(server.address, curl).json()["result"]["facts"]["predictions"]
    assert strongest["name"] == "espresso"


def test_the_shell_command_saves_its_picture(server: Launched, tmp_path: Path) -> None:
    (line,) = [line for line in blocks(README) if "convscope run" in line]
    _, *arguments = shlex.split(line)
    arguments[arguments.index("-o") + 1] = str(tmp_path / "maps.png")
    command = [sys.executable, "-m", "convscope.cli", *arguments, "--url", server.address]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert Image.open(tmp_path / "maps.png").format == "PNG"
    assert "blocks.2.0" in done.stdout


@pytest.mark.parametrize("document", ["README.md", "client/README.md"])
def test_the_python_that_is_shown_runs(server: Launched, tmp_path: Path, document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    script = shown.replace("http://localhost:8000", server.address).replace('"cat.jpg"', '"docs/images/cat.jpg"')
    script = script.replace('"cam.png"', repr(str(tmp_path / "cam.png")))
    script += "\nprint([value.shape for value in globals().values() if hasattr(value, 'shape')])\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert Image.open(tmp_path / "cam.png").format == "PNG"
    assert done.stdout.splitlines()[-1] == "[(1, 7, 7)]"


def test_a_restart_finds_jobs_results_and_images(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", standins=False) as first:
        parts = [("image", ("cat.jpg", (ROOT / "docs/images/cat.jpg").read_bytes()))]
        with httpx2.Client(base_url=first.address, trust_env=False, timeout=120) as client:
            image = client.post("/v1/images", files=parts).json()
            job = client.post("/v1/classify", files=parts, headers={"Prefer": "wait=60"}).json()
            assert job["state"] == "succeeded", job
        assert len(first.family()) >= 4  # server, service, supervisor, engine
        first.signal(signal.SIGKILL)
        first.wait()
        wait_until(lambda: not first.living(), what=f"nothing to be left running: {first.living()}")
    with Launched(tmp_path / "data", standins=False) as second:
        with httpx2.Client(base_url=second.address, trust_env=False, timeout=120) as client:
            assert client.get(f"/v1/images/{image['id']}").status_code == 200
            again = client.get(f"/v1/jobs/{job['id']}").json()
            assert again["result"]["facts"] == job["result"]["facts"]
        second.family()
        second.signal(signal.SIGINT)
        assert second.wait() == 0
        wait_until(lambda: not second.living())
