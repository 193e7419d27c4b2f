"""Prints findings/index.md: each script beside this file with the sentence of its first line after the shebang."""

from __future__ import annotations

from pathlib import Path

HEAD = """# Findings

What surprised us about other people's libraries, tools and formats. Each script installs the released packages that it
names in a temporary folder, shows the behaviour on valid input without a line of Convscope, prints what it saw, and
fails once that has changed. None is part of the tests: packages go on, and a failure here is news.

```sh
bash findings/safetensors-order.sh
PYTHON=.venv/bin/python bash findings/torch-cka-labels.sh   # takes torch from there, where it is the same version
```

Made by `python findings/write_index.py > findings/index.md` from the scripts' first lines.

| script | finding |
| --- | --- |"""


def sentence(script: Path) -> str:
    """What a script shows.

    Raises:
        ValueError: its second line is no comment of one sentence.
    """
    shebang, line, *_ = script.read_text("utf-8").splitlines()
    text = line.removeprefix("# ")
    if not shebang.startswith("#!") or text == line or not text.endswith("."):
        raise ValueError(f"{script.name}: the first line after the shebang has to be the finding in one sentence")
    return text


def index(folder: Path) -> str:
    """The text of the index of a folder of scripts."""
    rows = [f"| [{script.name}]({script.name}) | {sentence(script)} |" for script in sorted(folder.glob("*.sh"))]
    return "\n".join((HEAD, *rows)) + "\n"


if __name__ == "__main__":
    print(index(Path(__file__).parent), end="")
