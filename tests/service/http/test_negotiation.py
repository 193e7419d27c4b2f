"""Accept, Prefer, entity tags and idempotency keys, header by header."""

from __future__ import annotations

import pytest

from convscope.protocol.problems import ProblemError
from service.http.negotiation import (
    JPEG,
    JSON,
    PNG,
    SAFETENSORS,
    SVG,
    WEBP,
    Preference,
    accepted,
    etag_matches,
    idempotency_key,
    preference,
)

POSSIBLE = [JSON, PNG, SAFETENSORS]


@pytest.mark.parametrize(
    ("header", "media"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("image/*", PNG),
        ("application/*", JSON),
        ("application/*;q=0.1, image/png;q=0.2", PNG),
        ("image/png;q=0.5, application/vnd.safetensors", SAFETENSORS),
        ("text/html, application/xhtml+xml, */*;q=0.8", PNG),
        ("application/json;q=0, */*", PNG),
        ("application/json;q=0, application/*;q=0.9, image/png;q=0.1", SAFETENSORS),
        ("image/png;level=1;q=0.9", PNG),
        ("image/png;q=nonsense", PNG),
        (", image/png ,", PNG),
    ],
)
def test_the_best_of_what_is_accepted(header: str | None, media: str) -> None:
    assert accepted(header, POSSIBLE) == media


def test_pictures_of_other_formats_are_for_those_who_name_them() -> None:
    possible = [*POSSIBLE, WEBP, JPEG, SVG]
    assert accepted("image/*", possible) == PNG
    assert accepted("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", possible) == PNG
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
    assert accepted(browser, possible) == PNG
    assert [accepted(media, possible) for media in (WEBP, JPEG, SVG)] == [WEBP, JPEG, SVG]
    assert accepted("image/webp, image/png;q=0.5", possible) == WEBP
    assert [accepted(browser, possible, name) for name in ("webp", "jpeg", "svg")] == [WEBP, JPEG, SVG]


@pytest.mark.parametrize("header", ["text/html", "image/webp", "*/*;q=0", "application/json;q=0", "nonsense"])
def test_nothing_that_is_accepted(header: str) -> None:
    with pytest.raises(ProblemError) as caught:
        accepted(header, POSSIBLE)
    assert caught.value.name == "not-acceptable" and caught.value.extra["possible"] == POSSIBLE


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Preference()),
        (["respond-async"], Preference(respond_async=True)),
        (["wait=10"], Preference(wait_s=10)),
        (["Respond-Async, WAIT=5"], Preference(True, 5)),
        (["respond-async", "wait=5"], Preference(True, 5)),
        (["wait=5, wait=9"], Preference(wait_s=5)),
        (['wait="7"'], Preference(wait_s=7)),
        (["wait=5; strict=yes, handling=lenient"], Preference(wait_s=5)),
        (["wait=600"], Preference(wait_s=60)),
        (["wait=0"], Preference(wait_s=0)),
        (["return=minimal, , "], Preference()),
    ],
)
def test_preferences(headers: list[str], expected: Preference) -> None:
    assert preference(headers, 60) == expected


@pytest.mark.parametrize("header", ["wait", "wait=", "wait=x", "wait=-1", "wait=1e3", "wait=٣", "respond-async=yes"])
def test_bad_preferences(header: str) -> None:
    with pytest.raises(ProblemError) as caught:
        preference([header], 60)
    assert caught.value.name == "bad-preference"


def test_what_was_done_of_it() -> None:
    assert Preference(True).applied(True) == "respond-async"
    assert Preference(True, 5).applied(True) == "wait=5"
    assert Preference(True, 5).applied(False) == "respond-async, wait=5"
    assert Preference(wait_s=5).applied(False) == "wait=5"
    assert Preference().applied(True) is None


def test_entity_tags() -> None:
    assert etag_matches('"a", W/"b"', '"b"')
    assert etag_matches("*", '"b"')
    assert not etag_matches(None, '"b"')
    assert not etag_matches('W/"b"', '"b"', weak=False)


@pytest.mark.parametrize(
    ("header", "key"), [(None, ""), ('"a b"', "a b"), ("bare-1", "bare-1"), (r'"a\"b"', 'a"b'), (" x ", "x")]
)
def test_idempotency_keys(header: str | None, key: str) -> None:
    assert idempotency_key([] if header is None else [header]) == key


@pytest.mark.parametrize("header", ["", '""', "é", "x" * 256, "a\x01"])
def test_bad_idempotency_keys(header: str) -> None:
    with pytest.raises(ProblemError) as caught:
        idempotency_key([header])
    assert caught.value.name == "invalid-request"
