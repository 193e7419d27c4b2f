"""When a client sends its request again, when it does not, and what it raises."""

from __future__ import annotations

import time
from typing import Any

import pytest

from convscope_client import AsyncClient, Client, JobFailedError, ProblemError, UnexpectedAnswerError, UnreachableError
from convscope_client.images import Upload
from tests.client.test_following import job
from tests.convscope.cli.scripted import Answer, scripted

CAM = "POST /v1/cam"
IMAGE = Upload("a.png", b"bytes")


def refusal(status: int, name: str, **more: Any) -> Answer:
    headers = {"Retry-After": str(more.pop("retry_after"))} if "retry_after" in more else {}
    problem = {"type": f"/problems/{name}", "title": name, "status": status, **more}
    return Answer(status, problem, "application/problem+json", headers)


def test_an_answer_that_is_lost_is_asked_for_again_under_the_same_key() -> None:
    lost = Answer(202, job(), cut=True)
    with scripted({CAM: [lost, lost, Answer(202, job("running"))]}) as service, Client(service.url) as client:
        assert client.cam(IMAGE, methods=["cam"]).state == "running"
    assert len(service.asked) == 3
    assert len({asked.headers["idempotency-key"] for asked in service.asked}) == 1
    assert all(b"bytes" in asked.body and b'"methods": ["cam"]' in asked.body for asked in service.asked)


def test_two_calls_have_two_keys_and_a_key_of_ones_own_is_kept() -> None:
    with scripted({CAM: [Answer(202, job())]}) as service, Client(service.url) as client:
        client.cam("img-1")
        client.cam("img-1")
        client.cam("img-1", idempotency_key="night 7")
    first, second, own = (asked.headers["idempotency-key"] for asked in service.asked)
    assert first != second
    assert own == "night 7"


@pytest.mark.parametrize(
    "again",
    [
        refusal(429, "quota-exceeded"), refusal(503, "queue-full"), refusal(503, "queue-unavailable"),
        Answer(502, b"<html>bad gateway", "text/html"), refusal(408, "request-timeout"),
        Answer(504, b"", "text/html"),
    ],
)  # fmt: skip
async def test_what_may_succeed_later_is_sent_again(again: Answer) -> None:
    with scripted({CAM: [again, again, Answer(202, job())]}) as service:
        async with AsyncClient(service.url) as client:
            assert (await client.cam("img-1")).id == "j1"
        assert len(service.asked) == 3


@pytest.mark.parametrize(
    "final",
    [
        refusal(422, "unknown-layer"), refusal(500, "worker-crashed"), refusal(504, "deadline-exceeded"),
        refusal(401, "unauthenticated"), refusal(404, "not-found"), refusal(409, "already-finished"),
    ],
)  # fmt: skip
def test_what_another_try_does_not_mend_is_raised_at_once(final: Answer) -> None:
    with scripted({CAM: [final]}) as service, Client(service.url) as client:
        with pytest.raises(ProblemError) as caught:
            client.cam("img-1")
        assert len(service.asked) == 1
    assert (caught.value.name, caught.value.status) == (final.body["title"], final.status)
    assert type(caught.value) is ProblemError


def test_the_services_word_about_when_is_heeded() -> None:
    with scripted({CAM: [refusal(503, "queue-full", retry_after=1), Answer(202, job())]}) as service:
        begun = time.monotonic()
        with Client(service.url) as client:
            client.cam("img-1")
        assert time.monotonic() - begun >= 1.0


def test_patience_ends() -> None:
    with scripted({CAM: [refusal(503, "queue-full")]}) as service:
        with Client(service.url, patience_s=0.4) as client, pytest.raises(ProblemError) as caught:
            client.cam("img-1")
        assert caught.value.name == "queue-full"
        assert len(service.asked) > 1
        with Client(service.url, patience_s=0) as client, pytest.raises(ProblemError):
            client.cam("img-1")
        tries = len(service.asked)
        # A wait beyond what is left is not begun.
        service.script[CAM] = [refusal(503, "queue-full", retry_after=50)]
        with Client(service.url, patience_s=20) as client, pytest.raises(ProblemError):
            client.cam("img-1")
        assert len(service.asked) == tries + 1


def test_nobody_at_an_address_that_never_answered_is_said_at_once() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(UnreachableError, match="no service answers at http"):
        client.list_models()
    with Client("http://127.0.0.1:9") as client, pytest.raises(TimeoutError, match="no service answers"):
        client.wait_until_ready(0.3)


def test_a_service_that_was_there_is_waited_for() -> None:
    last = Answer(body={"status": "ok"}, headers={"Connection": "close"})
    with scripted({"GET /livez": [last]}) as service:
        client = Client(service.url, patience_s=1.0)
        client.live()
    with client, pytest.raises(UnreachableError, match="no service answers at http"):
        begun = time.monotonic()
        client.live()
    assert time.monotonic() - begun >= 0.25


def test_something_else_at_the_address_is_said() -> None:
    refused = pytest.raises(UnexpectedAnswerError, match="is this a Convscope service")
    with (
        scripted({"GET /v1/models": [Answer(body=b"<html>", media="text/html")]}) as other,
        Client(other.url) as client,
        refused,
    ):
        client.list_models()


def test_a_job_that_fails_while_the_request_waits_is_told_from_a_request_that_is_refused() -> None:
    failed = refusal(422, "numerical-error", job_id="j1", detail="The loss is NaN.")
    mismatch = refusal(422, "idempotency-mismatch", job_id="j1")
    with scripted({CAM: [failed, mismatch]}) as service, Client(service.url) as client:
        with pytest.raises(JobFailedError, match="numerical-error: The loss is NaN") as caught:
            client.cam("img-1")
        assert caught.value.job_id == "j1"
        with pytest.raises(ProblemError) as refused:
            client.cam("img-1")
        assert not isinstance(refused.value, JobFailedError)


def test_what_a_lost_answer_has_deleted_is_deleted() -> None:
    lost = Answer(204, b"", cut=True)
    gone = refusal(404, "not-found")
    with scripted({"DELETE /v1/images/img-1": [lost, gone, gone]}) as service, Client(service.url) as client:
        client.delete_image("img-1")
        with pytest.raises(ProblemError):
            client.delete_image("img-1")


@pytest.mark.parametrize(
    ("wait_s", "fresh", "prefer", "cache"),
    [(None, False, None, None), (0, False, "respond-async", None), (12.4, True, "wait=12", "no-cache")],
)
def test_waiting_and_freshness_are_said_in_headers(wait_s: Any, fresh: bool, prefer: Any, cache: Any) -> None:
    with scripted({CAM: [Answer(202, job())]}) as service, Client(service.url, "secret") as client:
        client.cam("img-1", wait_s=wait_s, fresh=fresh)
        (asked,) = service.asked
    assert (asked.headers.get("prefer"), asked.headers.get("cache-control")) == (prefer, cache)
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["user-agent"].startswith("convscope-client/")


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted({"GET /livez": [Answer(body={"status": "ok"})]}) as service:
        monkeypatch.setenv("CONVSCOPE_URL", service.url)
        monkeypatch.setenv("CONVSCOPE_API_KEY", "hidden")
        with Client() as client:
            client.live()
        assert service.asked[0].headers["authorization"] == "Bearer hidden"
    monkeypatch.delenv("CONVSCOPE_URL")
    assert Client().url == "http://127.0.0.1:8000"
