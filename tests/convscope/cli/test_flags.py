"""Flags, variables and the table of settings come from one class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer import rich_utils
from typer.testing import CliRunner

from convscope.cli import flags
from convscope.cli.app import build
from convscope.cli.flags import PARTS, choose, flag, used_by, variable
from convscope.cli.settings_table import as_markdown, setting_lines, unit
from convscope.settings import Settings

ROOT = Path(__file__).parents[3]


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_PORT", "7001")
    monkeypatch.setenv("CONVSCOPE_HOST", "::1")
    chosen = choose({"port": "7002", "host": None, "data": None})
    assert (chosen.settings.port, chosen.settings.host, chosen.settings.lane_depth) == (7002, "::1", 1000)
    assert chosen.variables == {"CONVSCOPE_PORT": "7002"}
    environment = chosen.environment(CONVSCOPE_PORT="7003")
    assert (environment["CONVSCOPE_PORT"], environment["CONVSCOPE_HOST"]) == ("7003", "::1")


@pytest.mark.parametrize("given", [{"port": "many"}, {"port": "70000"}, {"log_level": "loud"}, {"lease_s": "0"}])
def test_a_wrong_value_names_flag_and_variable(given: dict[str, str]) -> None:
    (name,) = given
    with pytest.raises(typer.BadParameter, match=f"{flag(name)} or {variable(name)}: "):
        choose(given)


def test_a_wrong_variable_is_told_like_a_wrong_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_PORT", "many")
    with pytest.raises(typer.BadParameter, match="--port or CONVSCOPE_PORT"):
        choose({})


def test_every_setting_is_a_flag_of_the_commands_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 300)
    commands = {"serve": ["serve"], "api": ["api"], "worker": ["worker"], "client": ["run", "feature-maps"]}
    for part in PARTS:
        text = CliRunner().invoke(build(["run"]), [*commands[part], "--help"]).output
        for name in Settings.model_fields:
            assert (f"[{variable(name)}]" in text) == (part in used_by(name)), (part, name)


def test_the_parts_name_settings_that_exist() -> None:
    named = flags._SERVE | flags._API | flags._WORKER | flags._CLIENT | flags._ALSO_CLIENT
    assert named <= set(Settings.model_fields)


def test_the_listing_has_every_setting_with_unit_and_meaning() -> None:
    listed = json.loads(CliRunner().invoke(build(["settings"]), ["settings", "--json"]).stdout)
    assert [line["variable"] for line in listed] == [variable(name) for name in Settings.model_fields]
    for line in setting_lines():
        assert line.meaning.endswith(".") and line.unit and line.commands, line


@pytest.mark.parametrize(
    ("name", "words"),
    [("lease_s", "seconds"), ("body_mib", "MiB"), ("megapixels", "megapixels"), ("lane_depth", "number"),
     ("data", "path"), ("redis_url", "text"), ("log_level", "choice")],
)  # fmt: skip
def test_units(name: str, words: str) -> None:
    assert unit(name) == words


def test_the_table_for_people_has_every_setting() -> None:
    text = CliRunner().invoke(build(["settings"]), ["settings"], env={"COLUMNS": "300"}).stdout
    assert all(variable(name) in text for name in Settings.model_fields)


def test_the_page_of_settings_is_the_generated_one() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == as_markdown(), "run `make settings`"


def test_the_version() -> None:
    assert CliRunner().invoke(build(["--version"]), ["--version"]).stdout.strip() == "0.1.0"


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_part_without_a_queue_says_what_is_missing(command: str) -> None:
    result = CliRunner().invoke(build([command]), [command])
    assert result.exit_code == 2
    assert "--redis-url" in result.output


def test_commands_about_weights_have_only_the_flags_that_matter_to_them() -> None:
    listed = {}
    for command in ("list", "pull", "check"):
        asked = ["models", command, "--help"]
        text = CliRunner().invoke(build(["models"]), asked, env={"TERMINAL_WIDTH": "300"}).output
        listed[command] = {name for name in Settings.model_fields if f"[{variable(name)}]" in text}
    assert listed["pull"] == listed["check"] == {"data", "catalogue", "weights_folder", "default_model"}
    assert listed["list"] == listed["pull"] | {"url", "api_key"}
