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
