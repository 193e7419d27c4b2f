"""Quotas of callers: none without a key file."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import httpx2
import pytest

from convscope.settings import Settings
from service.http.auth import ANONYMOUS, NO_QUOTA, Callers
from tests.service.support import HOLD, Service, Worker, png_bytes, wait_for


def test_without_keys_nobody_has_a_quota_and_with_them_the_setting_or_the_entry_holds(tmp_path: Path) -> None:
    assert Callers.read(None).quota(ANONYMOUS) == NO_QUOTA
    digest = hashlib.sha256(b"key").hexdigest()
    path = tmp_path / "keys.toml"
    path.write_text(f'[callers.a]\nkey_sha256 = "{digest}"\n[callers.b]\nkey_sha256 = []\nunfinished_jobs = 3\n')
    callers = Callers.read(path)
    assert (callers.quota("a"), callers.quota("b")) == (None, 3)


def test_a_bad_key_file_is_named_with_its_trouble_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    for text, trouble in (
        ("[callers", "is not TOML"),
        ("[callers.a]\nkey = 1\n", "callers.a"),
        ('[callers.a]\nkey_sha256 = "xyz"\n', "key_sha256 of a is not a SHA-256"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=trouble) as said:
            Callers.read(path)
        assert str(path) in str(said.value) and "\n" not in str(said.value)


def test_many_long_jobs_of_everybody_do_not_lock_out_a_quick_one(service_settings: Settings, worker: Worker) -> None:
    with Service(service_settings.model_copy(update={"caller_jobs": 1})) as service, service.client() as client:
        files = [("image", ("a.png", png_bytes(value=77), "image/png"))]
        fresh = {"Cache-Control": "no-cache"}
        held = [
            client.post(
                "/v1/feature-maps",
                files=[*files, ("seed", (None, b"%d" % HOLD))],
                headers={**fresh, "Prefer": "respond-async"},
            )
            for _ in range(3)
        ]
        assert [answer.status_code for answer in held] == [202] * 3
        quick = client.post("/v1/feature-maps", files=files, headers=fresh)
        for answer in held:
            client.delete(answer.headers["location"])
            wait_for(partial(_finished, client, answer.headers["location"]), "the cancellation")
        assert quick.status_code == 200, quick.text


def _finished(client: httpx2.Client, path: str) -> bool:
    return client.get(path).json()["finished_at"] is not None
