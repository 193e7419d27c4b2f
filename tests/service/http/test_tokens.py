"""Tokens of an identity provider on this machine: whose are taken, and whose are not."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from convscope.settings import Settings
from service.app import create_app
from service.http import tokens
from tests.service.support import Service, Worker, png_bytes, problem_of

AUDIENCE = "convscope-of-the-laboratory"
Key = RSAKey | ECKey


class Provider:
    """Publishes keys as OpenID Connect says, and signs tokens."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {"one": RSAKey.generate_key(2048, {"kid": "one"})}
        self.reads = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told: dict[str, Any] = {"issuer": provider.issuer, "jwks_uri": f"{provider.issuer}/keys"}
                if self.path == "/keys":
                    provider.reads += 1
                    told = {"keys": [key.as_dict(private=False) for key in provider.keys.values()]}
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def claims(self, **more: Any) -> dict[str, Any]:
        return {"iss": self.issuer, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 60, **more}

    def token(self, kid: str = "one", **more: Any) -> str:
        key = self.keys[kid]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        claims = {name: value for name, value in self.claims(**more).items() if value is not None}
        return jwt.encode({"alg": algorithm, "kid": kid}, claims, key)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def client(provider: Provider, service_settings: Settings, worker: Worker) -> Iterator[httpx2.Client]:
    settings = service_settings.model_copy(update={"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE})
    with Service(settings) as service, service.client() as client:
        yield client


def asks(
    client: httpx2.Client, token: str, method: str = "GET", path: str = "/v1/jobs", **more: Any
) -> httpx2.Response:
    return client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **more)


def test_a_token_names_its_caller_whose_jobs_nobody_else_sees(client: httpx2.Client, provider: Provider) -> None:
    problem_of(client.get("/v1/jobs"), 401, "unauthenticated")
    files = [("image", ("a.png", png_bytes(value=51), "image/png"))]
    made = asks(client, provider.token(), "POST", "/v1/feature-maps", files=files)
    assert made.status_code == 200, made.text
    assert [job["id"] for job in asks(client, provider.token()).json()["jobs"]] == [made.json()["id"]]
    assert asks(client, provider.token(sub="auth0|bob")).json() == {"jobs": []}
    assert provider.reads == 1, "keys are read once"


@pytest.mark.parametrize(
    "wrong",
    [
        {"aud": "another"}, {"aud": None}, {"iss": "https://another.example"}, {"sub": None}, {"exp": None},
        {"exp": 1_000_000_000}, {"nbf": 4_000_000_000},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_with_a_wrong_claim_is_not_taken(
    client: httpx2.Client, provider: Provider, wrong: dict[str, Any]
) -> None:
    problem_of(asks(client, provider.token(**wrong)), 401, "unauthenticated")


def test_a_token_with_a_signature_that_anybody_could_make_is_not_taken(
    client: httpx2.Client, provider: Provider
) -> None:
    public = provider.keys["one"].as_pem(private=False)
    head, claims, _ = provider.token().split(".")
    symmetric = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    mac = hmac.digest(public, f"{symmetric}.{claims}".encode(), "sha256")  # joserfc itself refuses to make this one
    forged = f"{symmetric}.{claims}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    other = RSAKey.generate_key(2048, {"kid": "one"})
    for token in (
        forged,
        f"{head}.{claims}.",
        f"{head}.{claims[:-2]}AA.AAAA",
        jwt.encode({"alg": "RS256", "kid": "one"}, provider.claims(), other),
        "eyJhbGciOiJub25lIn0.e30.",
    ):
        problem_of(asks(client, token), 401, "unauthenticated")


def test_scopes_of_a_token(client: httpx2.Client, provider: Provider) -> None:
    reader = provider.token(scope="openid convscope:read")
    assert asks(client, reader).status_code == 200
    assert problem_of(asks(client, reader, "POST", "/v1/classify"), 403, "forbidden")["scope"] == "submit"
    problem = problem_of(asks(client, provider.token(), "DELETE", "/v1/models/x"), 403, "forbidden")
    assert "convscope:models" in problem["detail"]
    bringer = provider.token(scope="convscope:models")
    problem_of(asks(client, bringer, "DELETE", "/v1/models/x"), 404, "not-found")


def test_a_new_key_of_the_provider_is_found(
    client: httpx2.Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.keys["two"] = ECKey.generate_key("P-256", {"kid": "two"})
    monkeypatch.setattr(tokens, "AGAIN_S", 0.0)
    assert asks(client, provider.token("two")).status_code == 200


def test_a_provider_that_is_away(service_settings: Settings, provider: Provider) -> None:
    away = {"oidc_issuer": "http://127.0.0.1:9", "oidc_audience": AUDIENCE}
    with Service(service_settings.model_copy(update=away)) as service, service.client() as client:
        answer = asks(client, provider.token())
        problem_of(answer, 503, "identity-unavailable")
        assert int(answer.headers["retry-after"]) >= 1


def test_settings_that_would_take_any_token_are_refused(tmp_path: Path) -> None:
    for settings, word in (
        (Settings(oidc_issuer="https://idp.example"), "go together"),
        (Settings(oidc_audience="us"), "go together"),
        (Settings(oidc_issuer="http://idp.example", oidc_audience="us"), "https://"),
    ):
        assert word in str(settings.identity_trouble)
    right = Settings(oidc_issuer="https://idp.example", oidc_audience="us", host="0.0.0.0")
    assert right.identity_trouble is None and right.exposure_trouble is None
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[callers."oidc.ann"]\nkey_sha256 = "{"0" * 64}"\n')
    with pytest.raises(ValueError, match="callers with tokens"):
        create_app(Settings(api_keys_file=keys))
