"""What a new user does in the explorer, in a real browser on a real service: drop, click, read, make, copy."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser import PATIENCE_MS
from tests.contract.trees import ROOT
from tests.end_to_end.explorer.conftest import Visitor

FIRST_VIEW_BYTES = 300 * 1024
SHOWN = "img => img.complete && img.naturalWidth > 0"
MAKING = re.compile("Make its picture")

expect.set_options(timeout=PATIENCE_MS)


def drop(page: Page, image: bytes) -> None:
    """Drop an image file on the page."""
    page.evaluate(
        """text => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], 'cat.png', { type: 'image/png' }));
            window.dispatchEvent(new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(image).decode(),
    )


def shown(picture: Locator) -> None:
    """The picture is there and was decoded."""
    expect(picture).to_be_visible()
    picture.evaluate("img => img.decode()")
    assert picture.evaluate(SHOWN)
    assert picture.get_attribute("alt"), "a picture has its words"


def test_from_a_dropped_image_to_a_channels_picture(visit: Visitor, chelsea: bytes, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.go("")
    expect(page.get_by_role("heading", name="See what a network sees")).to_be_visible()
    expect(page.locator(".samples img")).to_have_count(4)
    page.wait_for_load_state("networkidle")
    assert 0 < sum(visitor.received.values()) <= FIRST_VIEW_BYTES, visitor.received

    drop(page, chelsea)
    expect(page.locator(".predictions")).to_contain_text("Egyptian cat")
    expect(page.locator(".node.chosen")).to_contain_text("blocks.2")
    expect(page.locator(".maps canvas")).to_have_count(24)
    means = [float(text) for text in page.locator(".maps span").evaluate_all("all => all.map(e => e.lastChild.data)")]
    assert means == sorted(means, reverse=True), "strongest first"
    distinct = page.locator(".maps canvas").first.evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert distinct > 50, "a map has many colours"

    page.locator(".maps a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Channel")
    for figure in page.locator("cs-figure figure").all():
        shown(figure.locator("img"))
        expect(figure.locator(".how")).not_to_be_empty()
        expect(figure.locator(".caution")).to_contain_text("Caution")
    assert page.locator("cs-figure figure").count() == 2, "its map over the photograph, its projection"

    page.get_by_role("button", name=MAKING).click()
    expect(page.locator("img.preview")).to_be_visible()
    expect(page.locator(".live .u-over")).to_be_visible()
    first = page.locator("progress").evaluate("one => one.value")
    page.wait_for_function("was => document.querySelector('progress').value > was", arg=first)
    place = page.url
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".live")).to_have_attribute("data-state", "cancelled")
    expect(page.get_by_text("Cancelled.")).to_be_visible()

    page.reload()
    assert page.url == place
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    shown(page.locator("cs-figure img").first)

    first_figure = page.locator("cs-figure").first
    for name in ("curl", "Python"):
        first_figure.get_by_role("button", name=f"Copy {name}").click()
        expect(first_figure.get_by_text(f"{name} copied")).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()")
        assert_runs(text, name, tmp_path / name)


def assert_runs(text: str, name: str, folder: Path) -> None:
    """A copied request gives the picture when it is run elsewhere."""
    folder.mkdir()
    command = ["bash", "-c", text] if name == "curl" else [sys.executable, "-I", "-c", text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=_without_proxies())
    assert done.returncode == 0, (text, done.stderr)
    picture = Image.open(folder / "feature-maps.png")
    assert min(picture.size) > 100


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def test_a_finished_picture_by_its_address(visit: Visitor, client: httpx2.Client, cat: str) -> None:
    objective = {"layer": "blocks.1", "channel": 3}
    job = client.post("/v1/maximize", json={"objective": objective, "steps": 24}, headers={"Prefer": "wait=60"}).json()
    page = visit().go(f"#/channel?image={cat}&layer=blocks.1&channel=3&job={job['id']}")
    shown(page.locator(".live img"))
    expect(page.locator(".live .curve")).to_have_attribute("aria-label", re.compile("at step 24$"))
    losses = job["result"]["arrays"]["loss"]["data"][0]
    label = page.locator(".live .curve").get_attribute("aria-label") or ""
    assert f"from {float(f'{losses[0]:.3g}'):g} to {float(f'{losses[-1]:.3g}'):g} " in label
    assert job["id"] in (page.locator(".live .as-curl").text_content() or "")


def test_what_excites_a_channel_in_a_set(visit: Visitor, cat: str, chelsea: bytes, coffee: bytes) -> None:
    page = visit().go(f"#/channel?image={cat}&layer=blocks.1&channel=3")
    with page.expect_file_chooser() as chosen:
        page.get_by_text("Upload a set").click()
    images = {"cat.png": chelsea, "coffee.png": coffee}
    chosen.value.set_files([{"name": name, "mimeType": "image/png", "buffer": data} for name, data in images.items()])
    page.get_by_role("button", name="Look through it").click()
    shown(page.locator("cs-strongest img"))
    assert "sweep=" in page.url


def test_the_graph_opens_down_to_calls(visit: Visitor, cat: str) -> None:
    page = visit().go(f"#/layer?image={cat}&layer=blocks.1")
    expect(page.locator(".node")).to_have_count(7)  # the image and six stages
    expect(page.locator(".graph path")).to_have_count(6)
    page.get_by_role("button", name="Open 1", exact=True).click()
    expect(page.locator('.node[data-id="blocks.1.1"]')).to_be_visible()
    page.locator('.node[data-id="blocks.1.1"]').get_by_role("button", name="Open 1").click()
    added = page.locator('.node[data-id="blocks.1.1.@add"]')
    expect(added).to_contain_text("24 × 56 × 56")
    # One line more than a chain of so many nodes has: the shortcut beside the convolutions.
    nodes, lines = page.locator(".node").count(), page.locator(".graph path").count()
    assert lines == nodes
    page.locator('.node[data-id="blocks.1.1.conv_dw"] .pick').click()
    expect(page.get_by_role("heading", level=1)).to_have_text("blocks.1.1.conv_dw")
    expect(page.locator(".facts")).to_contain_text("144 channels of 56 × 56")
    expect(page.locator(".facts")).to_contain_text("19 × 19 pixels, 4 × 4 apart")


def test_what_is_made_once_it_is_opened(visit: Visitor, cat: str) -> None:
    page = visit().go(f"#/layer?image={cat}&layer=blocks.2")
    opener = page.get_by_text("All 40 channels as three colours")
    expect(opener).to_be_visible()
    expect(page.locator(".later img")).to_have_count(0)
    opener.click()
    shown(page.locator(".later img"))
    expect(page.locator(".later figcaption")).to_contain_text("alike to the network")

    page = visit().go(f"#/evidence?image={cat}&methods=gradcam,layercam&targets=285,282")
    page.get_by_text("All as one picture").click()
    shown(page.locator(".later img"))


def test_evidence_side_by_side(visit: Visitor, client: httpx2.Client, cat: str) -> None:
    page = visit().go(f"#/evidence?image={cat}&methods=gradcam,layercam&targets=285,282")
    expect(page.locator(".cam-grid tbody img")).to_have_count(4)
    expect(page.locator(".cam-grid thead th")).to_contain_text(["gradcam", "layercam"])
    expect(page.locator(".cam-grid tbody th")).to_contain_text(["Egyptian cat", "tiger cat"])
    cells = page.locator(".cam-grid tbody img")
    asked = {"image": {"id": cat}, "methods": ["gradcam", "layercam"], "targets": [285, 282], "upsampled": False}
    for number, pick in enumerate(("gradcam/285", "layercam/285", "gradcam/282", "layercam/282")):
        shown(cells.nth(number))
        expected = client.post("/v1/cam", params={"pick": pick, "title": "none", "format": "png"}, json=asked).content
        assert pixels_of(cells.nth(number)) == Image.open(io.BytesIO(expected)).size, pick
    page.get_by_label("Another class").fill("tabby")
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".cam-grid tbody img")).to_have_count(6)
    assert "targets=285%2C282%2C281" in page.url
    page.get_by_label("hirescam").check()
    expect(page.locator(".cam-grid tbody img")).to_have_count(9)


def pixels_of(picture: Locator) -> tuple[int, int]:
    """Width and height of a picture."""
    width, height = picture.evaluate("img => [img.naturalWidth, img.naturalHeight]")
    return width, height


def test_saliency_by_several_methods(visit: Visitor, cat: str) -> None:
    page = visit().go(f"#/saliency?image={cat}&methods=gradient,guided")
    expect(page.locator("cs-figure img")).to_have_count(2)
    for picture in page.locator("cs-figure img").all():
        shown(picture)
    page.get_by_role("button", name="tabby").click()
    expect(page.locator('cs-figure img[alt="gradient of tabby"]')).to_be_visible()


def test_occlusion_under_a_window_moved_by_hand(visit: Visitor, client: httpx2.Client, cat: str) -> None:
    page = visit().go(f"#/occlusion?image={cat}&targets=285")
    window = page.get_by_role("slider", name="Window that hides a part")
    expect(window).to_be_visible()
    asked = {"image": {"id": cat}, "target": 285, "window": [56, 56]}
    result = client.post("/v1/occlusion", json=asked).json()["result"]
    probability = np.array(result["arrays"]["probability"]["data"])[0]
    lowest = result["facts"]["lowest_probability"]
    row, column = lowest["row"], lowest["column"]
    assert window.get_attribute("aria-valuetext") == _told(probability, row, column)
    for key, by in (("ArrowUp", (-1, 0)), ("ArrowLeft", (0, -1)), ("ArrowDown", (1, 0))):
        window.press(key)
        row, column = min(max(row + by[0], 0), 12), min(max(column + by[1], 0), 12)
        expect(window).to_have_attribute("aria-valuetext", _told(probability, row, column))
    box = window.bounding_box()
    assert box is not None
    # The middle of the photograph is the middle of the crop, and so of the places.
    window.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(window).to_have_attribute("aria-valuetext", _told(probability, 6, 6))


def _told(probability: np.ndarray, row: int, column: int) -> str:
    return f"row {row + 1} of 13, column {column + 1} of 13: {round(100 * probability[row, column])} %"


def test_similarity_names_the_pair_under_the_pointer(visit: Visitor, client: httpx2.Client, cat: str) -> None:
    page = visit().go(f"#/similarity?image={cat}&layer=blocks.1")
    page.get_by_role("combobox", name="Channels").select_option("12")
    page.get_by_role("button", name="Compare").click()
    matrix = page.locator("cs-heat .cells")
    expect(matrix).to_be_visible()
    job = re.search(r"job=([0-9a-f-]+)", page.url)
    assert job is not None
    told = client.get(f"/v1/jobs/{job[1]}").json()["result"]
    values = np.array(told["arrays"]["matrix/blocks.1"]["data"])
    box = matrix.bounding_box()
    assert box is not None
    matrix.hover(position={"x": box["width"] * 7.5 / 12, "y": box["height"] * 2.5 / 12})
    pair = page.locator(".big")
    expect(pair).to_contain_text("2 and 7")
    assert float(pair.locator("b").inner_text()) == pytest.approx(values[2, 7], rel=5e-3)
    expect(page.locator(".two-maps canvas")).to_have_count(2)
    matrix.press("ArrowRight")
    expect(pair).to_contain_text("2 and 8")
    page.locator(".two-maps a").last.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Channel 8")


def test_layers_are_compared_on_several_images(visit: Visitor, cat: str) -> None:
    page = visit().go(f"#/similarity?image={cat}")
    page.get_by_label("the network’s stages", exact=False).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("cs-heat .cells")).to_be_visible()
    page.locator("cs-heat .cells").press("ArrowDown")
    expect(page.locator(".two-maps canvas")).to_have_count(2)


def test_what_cannot_be_done_is_said_with_a_way_on(visit: Visitor, cat: str) -> None:
    visitor = visit()
    page = visitor.go(f"#/channel?image={cat}&layer=classifier&channel=281")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Channel 281")
    page = visitor.go("#/layer?image=img-00000000000000000000000000000000")
    expect(page.get_by_role("alert").first).to_contain_text("img-0000")
    visitor.troubles.clear()  # the browser's own word for the answer 404


def test_it_looks_as_its_documentation_shows(visit: Visitor, client: httpx2.Client) -> None:
    """Coarsely, so that other fonts do not matter: the mean of each 16 by 16 pixels."""
    photograph = (ROOT / "service/explorer/samples/cat.jpg").read_bytes()
    made = client.post("/v1/images", files={"image": ("cat.jpg", photograph, "image/jpeg")})
    page = visit().go(f"#/layer?image={made.json()['id']}&layer=blocks.1.1")
    expect(page.locator(".maps canvas")).to_have_count(24)
    expect(page.locator(".node.chosen")).to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)
    page.wait_for_timeout(300)  # the graph comes to rest
    seen = coarse(page.screenshot())
    shown_there = coarse((ROOT / "docs/images/explorer.png").read_bytes())
    assert np.abs(seen - shown_there).mean() < 6
    assert np.abs(seen - coarse(page.locator("aside").screenshot())).mean() > 12, "another picture is told apart"


def coarse(picture: bytes) -> np.ndarray:
    """80 by 50 mean colours of a picture."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((80, 50), Image.Resampling.BOX), float)
