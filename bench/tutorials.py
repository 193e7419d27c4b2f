"""Draw the pictures of docs/tutorials.md by its own requests, and write the figures of its table.

Run: python -m bench.tutorials (or with `pictures` or `figures` as arguments)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from PIL import Image

from bench.method_pictures import digit
from bench.serving import served
from bench.tutorial_mistakes import Mistake, mistakes

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "tutorials.md"
ADDRESS = "http://localhost:8000"
LONGEST_S = 300


def commands(text: str) -> list[str]:
    """The curl commands of a page, each on one line."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


def finished(address: str, folder: Path, command: str, file: str) -> bytes:
    """What a command answers; where it answers with a job that goes on, the job's picture."""
    quiet = command.replace(ADDRESS, address).replace("curl ", "curl -sS ", 1)
    subprocess.run(["bash", "-c", quiet], cwd=folder, check=True, timeout=LONGEST_S)
    answer = (folder / file).read_bytes()
    if answer.startswith(b"\x89PNG"):
        return answer
    query = re.search(rf"{ADDRESS}/v1/[a-z-]+(\?[^'\s]*)?", command)
    where = f"{address}/v1/jobs/{json.loads(answer)['id']}/result{(query and query[1]) or ''}"
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        found = httpx2.get(where, headers={"Accept": "image/png"}, timeout=60)
        if found.status_code == 200 and found.headers["Content-Type"] == "image/png":
            return found.content
        time.sleep(1)
    raise TimeoutError(command)


def pictures() -> None:
    """Every picture of the page, by the command above it."""
    with served() as address, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(DOCS / "images" / "cat.jpg", folder)
        Image.fromarray(digit(7)).save(folder / "seven.png")
        for command in commands(PAGE.read_text(encoding="utf-8")):
            file = command.rpartition(" -o ")[2].strip()
            (DOCS / "images" / f"tutorial-{file}").write_bytes(finished(address, folder, command, file))
            print(file)


def figures() -> None:
    """The table of mistakes, into its place on the page."""

    def row(one: Mistake) -> str:
        return f"| {one.name} | {one.mistaken} | {one.right} |"

    table = "\n".join(["| mistake | what comes of it | right |", "| --- | --- | --- |", *map(row, mistakes())])
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Draw what is asked for, or everything."""
    parts: dict[str, Callable[[], None]] = {"pictures": pictures, "figures": figures}
    for name in sys.argv[1:] or list(parts):
        parts[name]()


if __name__ == "__main__":
    main()
