"""The file of keys is changed while the service runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from convscope.settings import Settings
from tests.service.support import Service, wait_for


def written(path: Path, text: str) -> None:
    """As an editor writes: a new file in the place of the old."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def entry(name: str, key: str, more: str = "") -> str:
    return f'[callers.{name}]\nkey_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n{more}\n'


def test_keys_come_and_go_without_a_restart(
    service_settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys.toml"
    written(keys, entry("ann", "first"))
    with Service(service_settings.model_copy(update={"api_keys_file": keys})) as service, service.client() as client:

        def status(key: str) -> int:
            return client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("first"), status("second")) == (200, 401)
        written(keys, entry("ann", "second") + entry("bob", "third", "enabled = false"))
        wait_for(lambda: status("second") == 200, "the new key")
        assert (status("first"), status("third")) == (401, 403)
        written(keys, "this is not TOML")
        keys.chmod(0o600)
        wait_for(lambda: status("second") == 200 and "keys_not_read" in capfd.readouterr().err, "the word of it")
        keys.unlink()
        assert status("second") == 200, "what was read last stays in force"
        written(keys, entry("cat", "fourth"))
        wait_for(lambda: status("fourth") == 200, "the key of the mended file")
        assert status("second") == 401
