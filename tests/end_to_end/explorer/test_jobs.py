"""Jobs in the explorer: two browsers on one, a stream that is lost and taken up again, the list."""

from __future__ import annotations

import httpx2
from playwright.sync_api import expect

from tests.browser import PATIENCE_MS
from tests.end_to_end.explorer.conftest import Visitor
from tests.end_to_end.explorer.cutting import CuttableWay

expect.set_options(timeout=PATIENCE_MS)


def begun(client: httpx2.Client, steps: int, channel: int) -> str:
    """The id of a job that makes a picture."""
    asked = {"objective": {"layer": "blocks.1", "channel": channel}, "steps": steps}
    identity: str = client.post("/v1/maximize", json=asked).json()["id"]
    return identity


def test_two_browsers_on_one_job(visit: Visitor, client: httpx2.Client) -> None:
    job = begun(client, 4000, 1)
    pages = [visit().go(f"#/job?job={job}") for _ in range(2)]
    for page in pages:
        expect(page.locator("img.preview")).to_be_visible()
    pages[0].get_by_role("button", name="Cancel").click()
    for page in pages:
        expect(page.locator(".live")).to_have_attribute("data-state", "cancelled")


def test_a_lost_stream_is_taken_up_where_it_broke_off(visit: Visitor, client: httpx2.Client, address: str) -> None:
    with CuttableWay(address) as way:
        visitor = visit(way.address)
        page = visitor.go(f"#/job?job={begun(client, 300, 2)}")
        expect(page.locator(".live .u-over")).to_be_visible()
        way.cut()
        expect(page.get_by_text("connection lost, coming back")).to_be_visible()
        way.mend()
        expect(page.locator(".live")).to_have_attribute("data-state", "succeeded")
        expect(page.locator("cs-figure img")).to_be_visible()
        streams = [headers for _, url, headers in visitor.asked if url.endswith("/events")]
        assert "last-event-id" not in streams[0]
        assert int(streams[-1]["last-event-id"]) > 2, "it goes on after the last event that came"
        visitor.troubles.clear()  # the browser's own words for a connection that broke


def test_the_list_of_jobs_goes_along_and_cancels(visit: Visitor, client: httpx2.Client) -> None:
    job = begun(client, 4000, 3)
    page = visit().go("#/jobs")
    line = page.locator(f'[data-job="{job}"]')
    expect(line.locator("progress")).to_be_visible()
    was = line.locator("progress").evaluate("one => one.value")
    page.wait_for_function(
        "([job, was]) => document.querySelector(`[data-job='${job}'] progress`).value > was", arg=[job, was]
    )
    line.get_by_role("button", name="Cancel").click()
    expect(line.locator(".state")).to_have_text("cancelled")
    line.get_by_role("link").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
