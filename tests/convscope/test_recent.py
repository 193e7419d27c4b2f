"""What was used last, within a bound."""

from __future__ import annotations

from convscope.recent import Recent


def test_the_least_recently_used_make_room() -> None:
    kept: Recent[str, int] = Recent(3)
    for number, name in enumerate("abc"):
        kept.put(name, number)
    assert kept.get("a") == 0
    kept.put("d", 3)
    assert [kept.get(name) for name in "abcd"] == [0, None, 2, 3]


def test_sizes_are_counted_and_given_back() -> None:
    kept: Recent[str, str] = Recent(10)
    kept.put("a", "x", 6)
    kept.put("a", "y", 4)
    kept.put("b", "z", 6)
    assert (kept.get("a"), kept.get("b")) == ("y", "z")
    assert kept.pop("a") == "y" and kept.pop("a") is None
    kept.put("c", "w", 4)
    assert (kept.get("b"), kept.get("c")) == ("z", "w")
    kept.put("c", "too large", 11)
    assert kept.get("c") is None and kept.get("b") == "z"


def test_items_that_grow_are_measured_when_room_is_made() -> None:
    """The last one used stays, and be it larger than the whole; asked for room, it leaves as well."""
    sizes = {"a": 1, "b": 1, "c": 1}
    kept: Recent[str, str] = Recent(4, sizes.__getitem__)
    assert [kept.put(name, name) for name in "abc"] == [False, False, False]
    sizes["b"] = 3
    assert kept.put("c", "c") and kept.keys() == ["b", "c"]
    sizes["c"] = 9
    assert kept.put("c", "c") and kept.values() == ["c"]
    assert kept.make_room(keep="c") is False
    assert kept.make_room(1) and kept.keys() == []
    assert kept.make_room(1) is False
