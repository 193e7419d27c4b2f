"""`convscope run`: what it sends, how it follows a job through broken streams, what it saves and says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from convscope.cli.app import build
from convscope.protocol.operations import operations
from tests.convscope.cli.scripted import Answer, Asked, scripted

JOB = "/v1/jobs/j1"


def job(state: str = "queued", **more: Any) -> dict[str, Any]:
    progress = {"done": 0, "total": 1, "message": ""}
    return {"id": "j1", "operation": "feature-maps", "state": state, "progress": progress, "error": None, **more}


def stream(*events: tuple[int, str, dict[str, Any]]) -> bytes:
    return b": a comment\n\n" + b"".join(
        f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode() for number, name, data in events
    )


SUCCEEDED = job("succeeded", result={"facts": {"layers": [{"layer": "conv", "shape": [3, 4, 5]}], "note": 0.123456}})
DONE = Answer(media="text/event-stream", body=stream((9, "done", {"state": "succeeded"})))


def convscope(*arguments: str, url: str) -> Result:
    return CliRunner().invoke(build(["run"]), ["run", *arguments, "--url", url])


def form(asked: Asked) -> list[tuple[str, str | None, bytes]]:
    """The parts of a multipart body: name, file name, content."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + asked.body)
    return [
        (str(part.get_param("name", header="content-disposition")), part.get_filename(), part.get_payload(decode=True))
        for part in message.iter_parts()
    ]


def test_options_are_sent_as_the_fields_that_curl_would_send(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"first\r\nfile")
    (tmp_path / "b.png").write_bytes(b"second")
    with scripted({"POST /v1/feature-maps": [Answer(202, SUCCEEDED)]}) as service:
        result = convscope(
            "feature-maps", "-i", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.png"), "--layers", "a,b",
            "--layers", "c", "--channels", "top:3", "--preprocess", '{"size": [64, 64]}', "--api-key", "secret",
            url=service.url,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        (asked,) = service.of("POST", "/v1/feature-maps")
    assert sorted(form(asked)) == sorted(
        [
            ("image", "a.png", b"first\r\nfile"),
            ("image", "b.png", b"second"),
            ("layers", None, b"a,b"),
            ("layers", None, b"c"),
            ("channels", None, b"top:3"),
            ("preprocess", None, b'{"size": [64, 64]}'),
        ]
    )
    assert asked.headers["prefer"] == "respond-async"
    assert asked.headers["authorization"] == "Bearer secret"
    assert len(asked.headers["idempotency-key"]) > 30
    assert "cache-control" not in asked.headers


def test_images_that_the_service_has_are_named_by_id_and_fresh_asks_for_no_cache() -> None:
    with scripted({"POST /v1/feature-maps": [Answer(200, SUCCEEDED)]}) as service:
        result = convscope("feature-maps", "-i", "id:x1", "-i", "id:x2", "--fresh", url=service.url)
        assert result.exit_code == 0, result.output
        (asked,) = service.asked
    assert json.loads(asked.body) == {"images": [{"id": "x1"}, {"id": "x2"}]}
    assert asked.headers["cache-control"] == "no-cache"


def test_results_are_saved_by_suffix_with_the_drawing_options_in_the_query(tmp_path: Path) -> None:
    picture, arrays = tmp_path / "out.png", tmp_path / "out.safetensors"
    script = {
        "POST /v1/feature-maps": [Answer(202, job())],
        f"GET {JOB}/events": [DONE],
        f"GET {JOB}": [Answer(body=SUCCEEDED)],
        f"GET {JOB}/result": [Answer(body=b"PNG", media="image/png"), Answer(body=b"ST")],
    }
    with scripted(script) as service:
        result = convscope(
            "feature-maps", "-i", "id:x", "-o", str(picture), "-o", str(arrays), "--columns", "4", url=service.url
        )
        asked = service.of("GET", f"{JOB}/result")
    assert result.exit_code == 0, result.output
    assert (picture.read_bytes(), arrays.read_bytes()) == (b"PNG", b"ST")
    assert [one.query for one in asked] == ["columns=4", "columns=4"]
    assert [one.headers["accept"] for one in asked] == ["image/png", "application/vnd.safetensors"]
    assert "conv" in result.output and "0.1235" in result.output


def test_a_problem_is_told_so_that_a_person_can_act() -> None:
    problem = {
        "type": "/problems/unknown-layer", "title": "The network has no such layer", "status": 422,
        "detail": "efficientnet_lite0 has no layer 'x'.", "errors": [{"pointer": "/layer", "detail": "unknown"}],
        "request_id": "r7",
    }  # fmt: skip
    with scripted({"POST /v1/feature-maps": [Answer(422, problem, "application/problem+json")]}) as service:
        result = convscope("feature-maps", "-i", "id:x", url=service.url)
    assert result.exit_code == 1
    for words in ("(unknown-layer)", "no layer 'x'", "/layer: unknown", "GET /v1/models/{id}/layers", "request r7"):
        assert words in " ".join(result.output.split())


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_a_job_without_a_result_is_an_error(state: str) -> None:
    error = {"type": "/problems/out-of-memory", "title": "Too little memory"} if state != "cancelled" else None
    with scripted({"POST /v1/feature-maps": [Answer(202, job(state, error=error))]}) as service:
        result = convscope("feature-maps", "-i", "id:x", url=service.url)
    assert result.exit_code == 1
    assert ("was cancelled" if state == "cancelled" else "Too little memory") in result.output


def test_the_job_itself_can_be_printed_as_json() -> None:
    with scripted({"POST /v1/feature-maps": [Answer(200, SUCCEEDED)]}) as service:
        result = convscope("feature-maps", "-i", "id:x", "--json", url=service.url)
    assert json.loads(result.stdout) == SUCCEEDED


def test_an_interrupt_cancels_the_job(tmp_path: Path) -> None:
    process: subprocess.Popen[str] | None = None

    def interrupt() -> None:
        assert process is not None
        process.send_signal(signal.SIGINT)

    running = stream((1, "state", {"state": "running"}))
    script = {
        "POST /v1/feature-maps": [Answer(202, job())],
        # The stream stays open, by an announced length that never comes, until the interrupt is there.
        f"GET {JOB}/events": [Answer(media="text/event-stream", body=running, cut=False, then=interrupt)],
        f"GET {JOB}": [Answer(body=job("running"))],
        f"POST {JOB}/cancel": [Answer(202, job("running"))],
    }
    with scripted(script) as service:
        command = [sys.executable, "-m", "convscope.cli", "run", "feature-maps", "-i", "id:x", "--url", service.url]
        # A shell that runs the suite in the background has it, and what it starts, ignore interrupts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            # Python drops an interrupt that comes while it runs a finalizer; a person presses the keys again.
            interrupt()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert "cancelled job j1" in output
        assert len(service.of("POST", f"{JOB}/cancel")) == 1


def test_nobody_there_is_said_with_what_to_do() -> None:
    result = convscope("kernels", url="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "no service answers at http://127.0.0.1:9; `convscope serve` starts one, --url names another" in " ".join(
        result.output.split()
    )


def test_something_else_at_the_address_is_said() -> None:
    with scripted({"POST /v1/kernels": [Answer(body=b"<html>", media="text/html")]}) as other:
        result = convscope("kernels", url=other.url)
    assert result.exit_code == 1
    assert "is this a Convscope service?" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "nowhere.png"], "nowhere.png: No such file"),
        (["-i", "id:x", "-i", "README.md"], "not both"),
        (["-i", "id:x", "-o", "picture.gif"], ".png, .json, .safetensors"),
        (["-i", "id:x", "-o", "no/such/folder/a.png"], "there is no folder"),
        (["-i", "id:x", "--colour", "red"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_sent(arguments: list[str], words: str) -> None:
    with scripted({}) as service:
        result = convscope("feature-maps", *arguments, url=service.url)
        assert not service.asked
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", "").split())


@pytest.mark.parametrize("name", list(operations()))
def test_every_operation_has_its_command_with_every_property_as_an_option(name: str) -> None:
    result = CliRunner().invoke(
        build(["run"]), ["run", name, "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    )
    assert result.exit_code == 0, result.output
    for field in operations()[name].request.model_fields:
        if field != "images":
            assert f"--{field.replace('_', '-')}" in result.output
