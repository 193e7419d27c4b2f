"""The explorer for everybody: assistive technology, keyboards, phones, the dark; and nothing from elsewhere."""

from __future__ import annotations

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import PATIENCE_MS
from tests.end_to_end.explorer.conftest import Visitor

expect.set_options(timeout=PATIENCE_MS)

VIEWS = {
    "start": ("", ".samples img"),
    "layer": ("#/layer?image={cat}&layer=blocks.1.1", ".maps canvas"),
    "channel": ("#/channel?image={cat}&layer=blocks.1&channel=3&job={job}", ".live cs-figure img"),
    "evidence": ("#/evidence?image={cat}&methods=gradcam,layercam", ".cam-grid img"),
    "saliency": ("#/saliency?image={cat}&methods=gradient", "cs-figure img"),
    "occlusion": ("#/occlusion?image={cat}", "cs-figure img"),
    "similarity": ("#/similarity?image={cat}&layer=blocks.1&job={matrix}", "cs-heat canvas"),
    "jobs": ("#/jobs", ".jobs li"),
    "docs": ("docs", "main"),
    "problem": ("problems/not-applicable", "main"),
}


@pytest.fixture(scope="module")
def places(client: httpx2.Client, cat: str) -> dict[str, tuple[str, str]]:
    """The address of each view, and what is on it once it is complete."""
    maximize = {"objective": {"layer": "blocks.1", "channel": 3}, "steps": 24}
    cka = {"image": {"id": cat}, "layer": "blocks.1", "channels": "first:12"}
    wait = {"Prefer": "wait=60"}
    job = client.post("/v1/maximize", json=maximize, headers=wait).json()["id"]
    matrix = client.post("/v1/cka", json=cka, headers=wait).json()["id"]
    return {name: (place.format(cat=cat, job=job, matrix=matrix), seen) for name, (place, seen) in VIEWS.items()}


def complete(page: Page, seen: str) -> None:
    """The view is drawn, and nothing on it waits."""
    expect(page.locator(seen).first).to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)


@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_nothing(visit: Visitor, places: dict[str, tuple[str, str]], name: str) -> None:
    place, seen = places[name]
    page, axe = visit().go(place), Axe()
    complete(page, seen)
    # One operation of the interface stands for all; they are thousands of cells, made by the same lines.
    part = {"include": [["header"], [".contents"], ["#cam"]]} if name == "docs" else None
    violations = axe.run(page, part).response["violations"]
    page.emulate_media(color_scheme="dark")
    violations += axe.run(page, part, {"runOnly": ["color-contrast"]}).response["violations"]
    assert not {one["id"]: [node["target"] for node in one["nodes"]][:3] for one in violations}


def test_a_phones_width(visit: Visitor, places: dict[str, tuple[str, str]], chelsea: bytes) -> None:
    visitor = visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    for name, (place, seen) in places.items():
        page = visitor.go(place)
        complete(page, seen)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{name} is wider than the phone"
    page = visitor.go("")
    expect(page.get_by_text("Take a photograph")).to_be_visible()
    with page.expect_file_chooser() as chosen:
        page.get_by_text("Take a photograph").tap()
    chosen.value.set_files({"name": "cat.png", "mimeType": "image/png", "buffer": chelsea})
    expect(page.locator(".predictions")).to_contain_text("Egyptian cat")
    page.get_by_role("link", name="Similarity").tap()
    expect(page.get_by_role("button", name="Compare")).to_be_visible()


def walk(page: Page, to: str, most: int = 60) -> None:
    """Press Tab until what a selector says has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", to):
            return
    raise AssertionError(f"{most} tabs do not lead to {to}")


def test_by_keyboard_alone(visit: Visitor) -> None:
    page = visit().go("")
    complete(page, ".samples img")
    walk(page, ".samples button")
    page.keyboard.press("Enter")
    complete(page, ".maps canvas")
    page.keyboard.press("Tab")
    walk(page, ".node .fold")
    opened = page.evaluate("document.activeElement.getAttribute('aria-label')")
    before = page.locator(".node").count()
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelectorAll('.node').length > before", arg=before)
    assert opened.startswith("Open ")
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    walk(page, ".maps a", 80)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Channel")
    expect(page.get_by_role("button", name="Make its picture")).to_be_enabled()
    walk(page, ".maximize button.primary")
    page.keyboard.press("Enter")
    expect(page.locator("img.preview")).to_be_visible()
    walk(page, ".progress-row button")
    page.keyboard.press("Enter")
    expect(page.locator(".live")).to_have_attribute("data-state", "cancelled")


def test_the_policy_lets_no_other_script_run(visit: Visitor, address: str) -> None:
    for path in ("/", "/explorer/layout-worker.js", "/docs"):
        policy = httpx2.get(f"{address}{path}", trust_env=False).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    visitor = visit()
    page = visitor.go("")
    complete(page, ".samples img")
    assert not visitor.troubles
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.head.append(script);
    }""")
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in trouble for trouble in visitor.troubles)
    visitor.troubles.clear()
