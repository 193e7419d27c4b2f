"""The table of every setting, for a terminal, as JSON, and as docs/settings.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from convscope.cli.flags import PARTS, default_text, flag, kind, used_by, variable
from convscope.cli.listing import show
from convscope.settings import Settings

_COMMANDS = {"serve": "serve", "api": "api", "worker": "worker", "client": "run, models"}


@dataclass(frozen=True)
class SettingLine:
    """One setting as it is listed."""

    variable: str
    flag: str
    default: str
    unit: str
    meaning: str
    commands: str


def setting_lines() -> list[SettingLine]:
    """Every setting, in the order of convscope/settings.py."""
    return [
        SettingLine(
            variable=variable(name),
            flag=flag(name),
            default=default_text(name),
            unit=unit(name),
            meaning=field.description or "",
            commands=", ".join(_COMMANDS[part] for part in PARTS if part in used_by(name)),
        )
        for name, field in Settings.model_fields.items()
    ]


def unit(name: str) -> str:
    """A setting's unit, which stands at the end of its name; `number` for a plain one, the kind where it is none."""
    for ending, words in (("_s", "seconds"), ("_ms", "milliseconds"), ("_mib", "MiB"), ("megapixels", "megapixels")):
        if name.endswith(ending):
            return words
    return {"INTEGER": "number", "NUMBER": "number", "PATH": "path", "TEXT": "text", "BOOLEAN": "true or false"}.get(
        kind(Settings.model_fields[name]), "choice"
    )


def as_json() -> list[dict[str, Any]]:
    """The table as JSON values."""
    return [asdict(line) for line in setting_lines()]


def show_table() -> None:
    """The table for a terminal or a pipe."""
    rows = [
        (f"{line.variable}\n{line.flag}", line.default, line.unit, line.meaning, line.commands)
        for line in setting_lines()
    ]
    show(("variable, flag", "default", "unit", "meaning", "commands"), rows, lines=True)


def as_markdown() -> str:
    """The whole of docs/settings.md."""
    rows = "\n".join(_row(line) for line in setting_lines())
    return f"""# Settings

Generated from `convscope/settings.py` by `convscope settings --markdown`; a test compares the two. Every setting is an
environment variable and a flag of the commands that use it; a flag goes before a variable, a variable before the
default. `convscope settings` prints this table, `--json` gives it to programs.

| variable | flag | default | unit | meaning | commands |
| --- | --- | --- | --- | --- | --- |
{rows}
"""


def _row(line: SettingLine) -> str:
    cells = (f"`{line.variable}`", f"`{line.flag}`", line.default, line.unit, line.meaning, line.commands)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
