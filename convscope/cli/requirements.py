"""Requirements on figures: read from text, judged, learned from two seeds, and written as JUnit XML and Markdown."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from xml.etree import ElementTree

Figures = Mapping[str, float | None]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
}  # fmt: skip
_FORM = re.compile(r"\s*([A-Za-z][\w./-]*)\s*(>=|<=|==|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_NEVER_PRINTED = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LEARNED = {
    "agreement": 1.0, "cka.min": 1.0, "cka.mean": 1.0, "cam.rank_correlation.mean": 1.0,
    "cam.rank_correlation.p05": 1.0, "cam.mass_moved.mean": 0.0, "cam.mass_moved.p95": 0.0,
}  # fmt: skip
"""Figures that two trainings of one network can be compared by, and what each is of a network and itself."""


@dataclass(frozen=True)
class Requirement:
    """One figure, an operator, a number: `cka.min >= 0.9`."""

    figure: str
    sign: str
    bound: float

    @classmethod
    def read(cls, text: str) -> Requirement:
        """A requirement from its text.

        Raises:
            ValueError: it is none; the message says what would be.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no requirement: FIGURE, one of >= <= > < ==, and a number, as 'cka.min >= 0.9'"
            )
        return cls(found[1], found[2], float(found[3]))

    def __str__(self) -> str:
        return f"{self.figure} {self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Assessment:
    """What came of one requirement: the figure's value, and why it does not hold; "" where it does."""

    requirement: Requirement
    value: float | None
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the requirement is met."""
        return not self.reason


def read_requirements(lines: Iterable[str]) -> list[Requirement]:
    """The requirements of a file: one a line; what follows a # is a remark.

    Raises:
        ValueError: a line is none.
    """
    texts = [line.partition("#")[0].strip() for line in lines]
    return [Requirement.read(text) for text in texts if text]


def judge(requirements: Sequence[Requirement], figures: Figures) -> list[Assessment]:
    """Each requirement against the figures. A figure that there is not, or that has no value, meets none."""
    return [_verdict(one, figures) for one in requirements]


def _verdict(one: Requirement, figures: Figures) -> Assessment:
    if one.figure not in figures:
        near = get_close_matches(one.figure, list(figures), n=3, cutoff=0.4) or sorted(figures)[:10]
        return Assessment(one, None, f"there is no figure {one.figure}; possible: {', '.join(near)}")
    value = figures[one.figure]
    if value is None:
        return Assessment(one, None, f"{one.figure} has no value here; the report's notes say why")
    if not _OPERATORS[one.sign](value, one.bound):
        return Assessment(one, value, f"{one.figure} is {value:.6g}, and {one} is required")
    return Assessment(one, value, "")


def learn(figures: Figures, margin: float) -> list[Requirement]:
    """Requirements that two seeds of one training would meet.

    Each figure may be `margin` times as far from what it is of a network and itself as it is between the two seeds.
    """
    learned = []
    for name, same in LEARNED.items():
        value = figures.get(name)
        if value is not None:
            bound = same + margin * (value - same)
            learned.append(Requirement(name, "<=" if same == 0 else ">=", float(f"{bound:.6g}")))
    return learned


def junit(title: str, verdicts: Sequence[Assessment], seconds: float) -> bytes:
    """The verdicts as JUnit XML, a test case each."""
    failures = sum(not one.holds for one in verdicts)
    suite = ElementTree.Element(
        "testsuite",
        name=_plain(title),
        tests=str(len(verdicts)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=f"{seconds:.3f}",
    )
    for one in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname="convscope.compare", name=_plain(str(one.requirement))
        )
        if not one.holds:
            ElementTree.SubElement(case, "failure", message=_plain(one.reason)).text = _plain(one.reason)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def markdown(title: str, verdicts: Sequence[Assessment], figures: Figures) -> str:
    """A summary for a pull request: the verdicts first, then all figures."""
    short = sum(not one.holds for one in verdicts)
    judged = f"**{short} of {len(verdicts)} requirements are not met.**" if short else f"All {len(verdicts)} are met."
    lines = [f"# {_cell(title)}", "", judged if verdicts else "Nothing was required."]
    if verdicts:
        lines += ["", "| required | value | |", "| --- | ---: | --- |"]
        lines += [f"| `{one.requirement}` | {_number(one.value)} | {_cell(one.reason) or 'met'} |" for one in verdicts]
    lines += ["", "| figure | value |", "| --- | ---: |"]
    lines += [f"| {_cell(name)} | {_number(value)} |" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Without what XML cannot hold."""
    return _NEVER_PRINTED.sub("\ufffd", text)
