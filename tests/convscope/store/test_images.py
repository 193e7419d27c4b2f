"""Images and image sets: ids, owners, lists, lifetimes, and what happens when the server is full or gone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.keys import key
from convscope.store.artifacts import FRESH_S, Artifacts
from convscope.store.image_sets import ImageSetMember, ImageSets, RejectedEntry
from convscope.store.images import MADE, DecodedImage, Images, Pixels, npy_bytes, npy_pixels
from tests.servers import PrivateServer


def picture(value: int = 0, height: int = 2, width: int = 3) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def decoded(value: int = 0) -> DecodedImage:
    return DecodedImage(picture(value), "PNG", hashlib.sha256(bytes([value])).hexdigest(), ("a note",))


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts.open(str(tmp_path))


@pytest.fixture
def images(redis: Redis, artifacts: Artifacts) -> Images:
    return Images(redis, artifacts, 60)


async def fails_with(name: str, doing: object) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await doing  # type: ignore[misc]
    assert caught.value.name == name
    return caught.value


async def test_the_same_bytes_have_the_same_id_and_pixels(images: Images) -> None:
    first, again = await images.add("ann", decoded(1)), await images.add("ann", decoded(1))
    assert first.id == again.id == "img-" + decoded(1).sha256[:32]
    assert (first.width, first.height, first.format, first.notes) == (3, 2, "PNG", ("a note",))
    assert again.created_ms == first.created_ms
    assert again.expires_ms >= first.expires_ms == first.created_ms + 60_000
    assert (await images.read_pixels(first.pixels)).tolist() == picture(1).tolist()
    assert await images.get("ann", first.id) == again


async def test_a_file_whose_pixels_were_stored_just_before_is_known(
    images: Images, artifacts: Artifacts, tmp_path: Path
) -> None:
    sha256 = decoded(1).sha256
    assert await images.known("ann", sha256) is None
    first = await images.add("ann", decoded(1))
    assert await images.known("bob", sha256) is None
    await asyncio.sleep(0.002)
    again = await images.known("ann", sha256)
    assert again is not None
    assert again == first.model_copy(update={"expires_ms": again.expires_ms})
    assert again.expires_ms > first.expires_ms
    assert await images.get("ann", first.id) == again

    long_ago = time.time() - FRESH_S - 5
    os.utime(tmp_path / first.pixels, (long_ago, long_ago))
    assert await images.known("ann", sha256) is None, "its pixels must become young again"
    await images.add("ann", decoded(1))
    assert await images.known("ann", sha256) is not None
    await artifacts.delete(first.pixels)
    assert await images.known("ann", sha256) is None, "its pixels are lost"
    await images.add("ann", decoded(1))
    await images.delete("ann", first.id)
    assert await images.known("ann", sha256) is None


async def test_a_picture_of_a_job_is_no_known_file(images: Images) -> None:
    made = await images.get("ann", await images.grant(["ann"], picture(7)))
    assert await images.known("ann", made.sha256) is None


async def test_pictures_of_jobs_are_named_by_their_pixels(images: Images) -> None:
    granted = [await images.grant(["ann", "bob"], picture(7)), await images.grant(["ann"], picture(7))]
    other = await images.get("ann", await images.grant(["ann"], picture(7, 3, 2)))
    first = await images.get("bob", granted[0])
    assert granted[0] == granted[1] == first.id != other.id
    with pytest.raises(ProblemError, match="not-found"):
        await images.get("bob", other.id)
    assert first.format == MADE
    assert first.sha256 == hashlib.sha256(npy_bytes(picture(7))).hexdigest()
    assert (await images.read_pixels(other.pixels)).shape == (3, 2, 3)


async def test_what_is_no_picture_is_refused(images: Images) -> None:
    for wrong in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 0, 3), np.uint8)):
        with pytest.raises(ValueError, match="H×W×3"):
            await images.grant(["ann"], wrong)
    with pytest.raises(ValueError, match="uint8"):
        npy_bytes(np.zeros((2, 2, 3), np.float32))  # type: ignore[arg-type]


def test_npy_is_what_numpy_reads(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)[::2, ::-1]
    path = tmp_path / "a.npy"
    path.write_bytes(npy_bytes(noise))
    assert np.array_equal(np.load(path), noise)
    assert np.array_equal(npy_pixels(path.read_bytes()), noise)


async def test_a_caller_sees_only_its_own(images: Images) -> None:
    mine = await images.add("ann", decoded(1))
    theirs = await images.add("bob", decoded(2))
    await fails_with("not-found", images.get("ann", theirs.id))
    await fails_with("not-found", images.delete("ann", theirs.id))
    assert [each.id for each in (await images.page("ann"))[0]] == [mine.id]
    # A name with a colon may not be reached from the name before it.
    deep = await images.add("ann:b", decoded(3))
    for reach in (f"b:{deep.id}", "*", "", "a" * 81, "../x", "ä"):
        await fails_with("not-found", images.get("ann", reach))
        await fails_with("not-found", images.delete("ann", reach))
    assert (await images.get("ann:b", deep.id)).id == deep.id


async def test_deleting_forgets_the_record_and_leaves_pixels_to_their_other_users(images: Images) -> None:
    mine, theirs = await images.add("ann", decoded(1)), await images.add("bob", decoded(1))
    assert mine.id == theirs.id
    await images.delete("ann", mine.id)
    await fails_with("not-found", images.get("ann", mine.id))
    await fails_with("not-found", images.delete("ann", mine.id))
    assert (await images.page("ann")) == ([], None)
    assert (await images.read_pixels((await images.get("bob", mine.id)).pixels)).shape == (2, 3, 3)


@pytest.mark.parametrize("same_moment", [False, True])
async def test_pages_go_over_all_and_survive_deleting(
    images: Images, monkeypatch: pytest.MonkeyPatch, same_moment: bool
) -> None:
    if same_moment:
        now = time.time()
        monkeypatch.setattr("convscope.store.shelf.time.time", lambda: now)
    made = [(await images.add("ann", decoded(value))).id for value in range(7)]
    seen: list[str] = []
    cursor = None
    for step in range(4):
        page, cursor = await images.page("ann", limit=2, cursor=cursor)
        seen += [each.id for each in page]
        assert (cursor is None) == (step == 3)
    assert sorted(seen) == sorted(made)
    page, cursor = await images.page("ann", limit=2)
    rest = {*made} - {each.id for each in page}
    await images.delete("ann", page[1].id)  # the one that the cursor points to
    following, _ = await images.page("ann", limit=50, cursor=cursor)
    assert {each.id for each in following} <= rest


@pytest.mark.parametrize("cursor", ["", "!", "abc", "eA", "ä", "MTIz", "OjE"])
async def test_wrong_cursors(images: Images, cursor: str) -> None:
    await fails_with("invalid-request", images.page("ann", cursor=cursor))


async def test_records_end_by_themselves_and_are_not_listed_then(redis: Redis, artifacts: Artifacts) -> None:
    images = Images(redis, artifacts, 60)
    stays, ends = await images.add("ann", decoded(1)), await images.add("ann", decoded(2))
    assert 0 < await redis.pttl(key("image", "ann", stays.id)) <= 60_000
    assert 0 < await redis.pttl(key("images", "ann")) <= 60_000
    await redis.delete(key("image", "ann", ends.id))  # as its lifetime would
    assert [each.id for each in (await images.page("ann"))[0]] == [stays.id]
    await redis.zadd(key("images", "ann"), {ends.id: 1})
    await images.add("ann", decoded(3))
    assert await redis.zscore(key("images", "ann"), ends.id) is None


async def test_sets_keep_members_out_of_redis(redis: Redis, artifacts: Artifacts, images: Images) -> None:
    sets = ImageSets(redis, artifacts, 60)
    record = await images.add("ann", decoded(1))
    members = [ImageSetMember.of(f"{number}.png", record) for number in range(500)]
    rejected = [RejectedEntry(name="x", problem="unreadable-image", detail="broken")]
    made = await sets.add("ann", members, rejected)
    assert made.id == (await sets.add("ann", members, rejected)).id != (await sets.add("ann", members[1:], [])).id
    assert (made.images, made.rejected) == (500, 1)
    assert len(await redis.get(key("image_set", "ann", made.id))) < 400
    contents = await sets.contents(await sets.get("ann", made.id))
    assert contents.members == members
    assert contents.rejected == rejected
    assert len((await sets.page("ann"))[0]) == 2
    await fails_with("not-found", sets.get("bob", made.id))
    await sets.delete("ann", made.id)
    await fails_with("not-found", sets.get("ann", made.id))


async def test_a_server_that_is_full_or_gone_is_a_problem(
    private_server: Callable[..., PrivateServer], artifacts: Artifacts
) -> None:
    server = private_server()
    client = connect(server.url)
    images = Images(client, artifacts, 60)
    await images.add("ann", decoded(1))
    await client.config_set("maxmemory", 1)
    assert (await fails_with("queue-full", images.add("ann", decoded(2)))).retry_after_s
    server.close()
    assert (await fails_with("queue-unavailable", images.add("ann", decoded(2)))).retry_after_s
    await fails_with("queue-unavailable", images.page("ann"))
    await client.aclose()
