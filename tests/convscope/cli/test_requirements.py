"""Requirements on figures: what is read, what meets them, what is learned, and the files that tools read."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from convscope.cli.requirements import Requirement, judge, junit, learn, markdown, read_requirements

FIGURES = {"cka.min": 0.91, "cam.mass_moved.p95": 0.2, "accuracy.change": None, "agreement": 1.0}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("cka.min >= 0.91", True),
        ("cka.min>0.91", False),
        ("cka.min == .91", True),
        ("cka.min < 1", True),
        ("cam.mass_moved.p95 <= 1e-1", False),
        ("agreement >= 1", True),
        ("accuracy.change >= -0.01", False),
        ("cka.mim >= 0.1", False),
    ],
)
def test_a_requirement_is_judged(text: str, holds: bool) -> None:
    (verdict,) = judge([Requirement.read(text)], FIGURES)
    assert verdict.holds == holds, verdict


def test_what_falls_short_is_said() -> None:
    said = [
        one.reason
        for one in judge(read_requirements(["cka.min >= 0.95", "accuracy.change >= 0", "cka.mim > 0"]), FIGURES)
    ]
    assert said[0] == "cka.min is 0.91, and cka.min >= 0.95 is required"
    assert "no value" in said[1] and "possible: cka.min" in said[2]


@pytest.mark.parametrize(
    "text", ["cka.min", "cka.min => 1", "cka.min >= high", ">= 1", "cka.min >= 1 2", "cka.min >= nan"]
)
def test_other_text_is_no_requirement(text: str) -> None:
    with pytest.raises(ValueError, match=r"cka\.min >= 0\.9"):
        Requirement.read(text)


def test_a_file_has_remarks() -> None:
    assert read_requirements(["# learned", "", "cka.min >= 0.5  # low"]) == [Requirement("cka.min", ">=", 0.5)]


def test_what_is_learned_is_met_by_the_two_and_has_their_distance() -> None:
    figures = {"cka.min": 0.8, "cam.mass_moved.mean": 0.1, "agreement": None, "logits.largest_difference": 3.0}
    learned = learn(figures, 1.5)
    assert [str(one) for one in learned] == ["cka.min >= 0.7", "cam.mass_moved.mean <= 0.15"]
    assert all(one.holds for one in judge(learned, figures))
    assert all(one.holds for one in judge(learn(figures, 1.0), figures))
    assert not judge(learned, {"cka.min": 0.69, "cam.mass_moved.mean": 0.1})[0].holds


def test_files_for_tools() -> None:
    verdicts = judge(read_requirements(["cka.min >= 0.5", "cka.min >= 0.95"]), FIGURES)
    suite = ElementTree.fromstring(junit("a <b> & \x00", verdicts, 1.5)).find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("2", "1", "1.500")
    cases = suite.findall("testcase")
    assert cases[0].find("failure") is None and "0.95" in str(cases[1].find("failure").text)  # type: ignore[union-attr]
    text = markdown("a | b", verdicts, FIGURES)
    assert "**1 of 2 requirements are not met.**" in text and "| accuracy.change | none |" in text
    assert "a \\| b" in text
