"""Every route of the application, asked by every kind of caller: who is let in, and who is told what is missing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from convscope.settings import Settings
from service.app import create_app
from service.openapi import document
from tests.service.support import Service, Worker, problem_of

OPEN = {
    "/", "/explorer/{path}", "/livez", "/readyz", "/metrics", "/docs", "/problems/{name}",
    "/v2", "/v2/health/live", "/v2/health/ready",
}  # fmt: skip
"""Addresses for everybody; every other one wants a key."""
SCOPES: dict[str, set[str]] = {
    "reader": {"read"}, "submitter": {"submit"}, "bringer": {"models"}, "usual": {"read", "submit"},
}  # fmt: skip
CALLERS = ("nobody", "stranger", "disabled", *SCOPES)


def routes() -> list[tuple[str, str]]:
    """Every method and address of the document."""
    paths: dict[str, Any] = document(create_app(Settings.model_construct(api_keys_file=None)))["paths"]
    return [(method.upper(), path) for path, methods in sorted(paths.items()) for method in methods]


def needed(method: str, path: str) -> str:
    """The scope that a route needs."""
    if method in ("PUT", "DELETE") and path == "/v1/models/{model_id}":
        return "models"
    return "read" if method == "GET" else "submit"


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory, service_settings: Settings, worker: Worker
) -> Iterator[dict[str, httpx2.Client]]:
    """A client of each kind of caller."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in CALLERS}
    entries = [f'[callers.{name}]\nkey_sha256 = "{digests[name]}"\nscopes = {sorted(SCOPES[name])}' for name in SCOPES]
    entries.append(f'[callers.disabled]\nkey_sha256 = "{digests["disabled"]}"\nenabled = false')
    keys.write_text("\n".join(entries))
    with Service(service_settings.model_copy(update={"api_keys_file": keys})) as service:
        clients = {
            name: service.client(headers={} if name == "nobody" else {"Authorization": f"Bearer {name}"})
            for name in CALLERS
        }
        yield clients
        for client in clients.values():
            client.close()


@pytest.mark.parametrize(("method", "path"), routes())
def test_who_is_let_in(asked: dict[str, httpx2.Client], method: str, path: str) -> None:
    address = re.sub(r"\{[^}]*\}", "none", path)
    if path in OPEN:
        for client in asked.values():
            assert client.request(method, address).status_code not in (401, 403)
        return
    scope = needed(method, path)
    for name, client in asked.items():
        answer = client.request(method, address)
        if name in ("nobody", "stranger"):
            problem_of(answer, 401, "unauthenticated")
        elif name == "disabled":
            problem_of(answer, 403, "forbidden")
        elif scope in SCOPES[name]:
            assert answer.status_code not in (401, 403), (name, answer.text)
        else:
            assert problem_of(answer, 403, "forbidden")["scope"] == scope, name


def test_the_matrix_has_what_it_should() -> None:
    found = {path for _, path in routes()}
    assert {path for path in found if not path.startswith(("/v1", "/v2/models"))} <= OPEN
    assert len(routes()) > 40
