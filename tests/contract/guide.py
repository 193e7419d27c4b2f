"""Follows the recipes of CONTRIBUTING.md in a copy of our source.

A comment before a block of code, which a reader does not see, says what is done with it: `file: PATH` writes it,
`in: PATH; before: TEXT` puts it before the one line that begins with that text, `in: PATH; instead of: TEXT` in its
place. Where there are two paths (`A or B`), the one that exists is meant.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

BLOCK = re.compile(
    r"^( *)<!-- (?P<what>file|in): (?P<where>.*?) -->\n *(?P<fence>`{3,})\w*\n(?P<code>.*?)\n *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
EDIT = re.compile(r"(?P<paths>.*?); (?P<how>before|instead of): (?P<text>.*)")


class StepError(Exception):
    """A step of a recipe that cannot be followed."""


def sections(guide: str) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.*)$", guide, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def follow(recipe: str, tree: Path) -> list[Path]:
    """Do what a recipe says, step by step; the files that were written or edited.

    Raises:
        StepError: a file is there already, or the place of an edit is not to be found.
    """
    touched = []
    for block in BLOCK.finditer(recipe):
        # A block stands in a list, three columns in, on top of what its own lines have.
        code = "\n".join(line.removeprefix(block[1]) for line in block["code"].split("\n")) + "\n"
        if block["what"] == "file":
            path = tree / block["where"]
            if path.exists():
                raise StepError(f"{block['where']} is there already")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(code), encoding="utf-8")
        else:
            path = _edit(tree, block["where"], code)
        touched.append(path)
    return touched


def _edit(tree: Path, where: str, code: str) -> Path:
    said = EDIT.fullmatch(where)
    if said is None:
        raise StepError(f"{where!r} says no place")
    found = [path for name in said["paths"].split(" or ") if (path := tree / name).is_file()]
    if len(found) != 1:
        raise StepError(f"{said['paths']} is not one file")
    lines = found[0].read_text(encoding="utf-8").splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if line.strip().startswith(said["text"])]
    if len(places) != 1:
        raise StepError(f"{len(places)} lines of {found[0].relative_to(tree)} begin with {said['text']!r}")
    end = places[0] + (said["how"] == "instead of")
    lines[places[0] : end] = [code]
    found[0].write_text("".join(lines), encoding="utf-8")
    return found[0]
