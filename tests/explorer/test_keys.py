"""The explorer where the operator wants keys: it asks for one, uses it for everything, and keeps it in its tab."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from convscope.settings import Settings
from tests.browser import PATIENCE_MS, Visit
from tests.service.support import Service, Worker, png_bytes

KEY = "a key of the laboratory"

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def keyed(service_settings: Settings, worker: Worker, tmp_path: Path) -> Iterator[Service]:
    """A service that wants a key."""
    path = tmp_path / "keys.toml"
    path.write_text(f'[callers.lab]\nkey_sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n')
    with Service(service_settings.model_copy(update={"api_keys_file": path})) as running:
        yield running


def test_a_key_is_asked_for_and_used(browser: Browser, keyed: Service) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with keyed.client(headers=headers) as lab:
        made = lab.post("/v1/feature-maps", files={"image": ("a.png", png_bytes(value=63), "image/png")})
        assert made.status_code == 200, made.text
        job = made.json()["id"]
    visitor = Visit(browser, keyed.url)
    page = visitor.go("#/jobs")
    field = page.get_by_label("This service needs a key")
    expect(field).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("needs a key")
    field.fill("another key")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    field.fill(KEY)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator(f'[data-job="{job}"] .state')).to_have_text("finished")
    expect(field).to_have_count(0)

    page.locator(f'[data-job="{job}"] a').click()
    picture = page.locator("cs-figure img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0, "pictures come with the key"
    text = page.locator(".as-curl").first.text_content() or ""
    assert "$CONVSCOPE_API_KEY" in text and KEY not in text, "a copied request does not give the key away"
    page.reload()
    expect(page.locator("cs-figure img").first).to_be_visible()
    stored = page.evaluate("[localStorage.length, document.cookie, sessionStorage.getItem('convscope-key')]")
    assert stored == [0, "", KEY]
    assert all(KEY not in url for _, url, _ in visitor.asked)
    visitor.troubles = [one for one in visitor.troubles if "401" not in one]  # the browser's own word for that answer
    assert not visitor.troubles
    visitor.close()
