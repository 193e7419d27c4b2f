"""Documents are a tested contract: links lead somewhere, operations have their files, requests in them are real."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from starlette.routing import compile_path

from convscope.cli.flags import variable
from convscope.protocol.operations import operations
from convscope.protocol.problems import PROBLEMS
from convscope.render.options import RenderOptions
from convscope.settings import Settings
from tests.contract.curl import curls
from tests.contract.test_source import tracked
from tests.contract.trees import ROOT

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
DOCUMENTS = tracked(".md")
DRAWING = {*RenderOptions.__dataclass_fields__, "pick", "format"}


def links(text: str) -> list[str]:
    return [target for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the common renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    lost = []
    for link in links(text):
        name, _, anchor = unquote(link).partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


def test_the_link_check_finds_what_is_lost() -> None:
    text = '[a](no/such.md) ![b](x.png "title") [c](https://example.org)\n```\n[d](in-code.md)\n```'
    assert links(text) == ["no/such.md", "x.png"]
    assert anchors("# What it is\n## `deep` & wide\n") == {"what-it-is", "deep--wide"}


@pytest.mark.parametrize("name", list(operations()))
def test_every_operation_has_its_three_files_and_their_tests(name: str) -> None:
    module = name.replace("-", "_")
    for files in (
        [f"convscope/protocol/operations/{module}.py"],
        [f"workers/methods/{module}.py", f"workers/methods/{module}/method.py"],
        [f"docs/methods/{name}.md"],
        [f"tests/workers/methods/test_{module}.py", f"tests/workers/methods/{module}/test_{module}.py"],
    ):
        assert sum((ROOT / file).is_file() for file in files) == 1, f"{name} lacks {' or '.join(files)}"


@pytest.mark.parametrize("name", list(operations()))
def test_a_method_page_has_what_a_reader_needs(name: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"/v1/{name}" in text, "a request to run"
    properties = operations()[name].request.model_fields
    asked = [curl for curl in curls(text) if urlsplit(curl.url).path == f"/v1/{name}"]
    for curl in asked:
        assert curl.names <= {*properties, "image", "request"}, curl
        assert set(curl.query) <= DRAWING, curl


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{variable(name)}`" not in text] == []


def test_variables_named_in_documents_exist() -> None:
    known = {variable(name) for name in Settings.model_fields}
    own = {"CONVSCOPE_TEST_SERVER", "CONVSCOPE_FAULT_POINT", "CONVSCOPE_PASSWORD", "CONVSCOPE_PUBLISH"}
    own |= {"CONVSCOPE_KEYS", "CONVSCOPE_API_MEMORY", "CONVSCOPE_WORKER_MEMORY"}  # of docker-compose.yml
    own |= {"CONVSCOPE_KSERVE_PYTHON"}  # of a test
    for document in DOCUMENTS:
        named = set(re.findall(r"CONVSCOPE_[A-Z0-9_]*[A-Z0-9]", document.read_text(encoding="utf-8")))
        assert named <= known | own, document


def test_problems_named_in_documents_exist() -> None:
    for document in DOCUMENTS:
        named = set(re.findall(r"/problems/([a-z-]+)", document.read_text(encoding="utf-8")))
        assert named <= set(PROBLEMS), document


def test_curl_lines_are_read_whole() -> None:
    (curl,) = curls(
        "```json\n{}\n```\n```sh\ncurl -s -F image=@a.png -F layer=x \\\n  'http://h/v1/cam?alpha=0.5' -o y.png\n```"
    )
    assert (curl.method, curl.output, curl.query) == ("POST", "y.png", {"alpha": "0.5"})
    assert curl.fields == [("image", "@a.png"), ("layer", "x")]
    assert curl.names == {"image", "layer"}


def paths_of_the_service() -> list[tuple[str, re.Pattern[str]]]:
    """Method and path of every route."""
    from service.app import create_app

    paths = create_app(Settings()).openapi()["paths"]
    return [(method.upper(), compile_path(path)[0]) for path, methods in paths.items() for method in methods]


def test_the_readme_shows_five_requests_that_the_service_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    asked = curls(text)
    assert len([curl for curl in asked if urlsplit(curl.url).path.startswith("/v1/")]) >= 5
    known = paths_of_the_service()
    for curl in asked:
        path = urlsplit(curl.url).path
        assert any(method == curl.method and pattern.fullmatch(path) for method, pattern in known), curl.url
        operation = operations().get(path.removeprefix("/v1/"))
        if operation is not None and curl.method == "POST":
            assert curl.names <= {*operation.request.model_fields, "image", "request"}, curl.url
            assert set(curl.query) <= DRAWING, curl.url


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make serve" in text and "make test" in text


def test_decisions_have_one_form() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.md"))
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert len(records) >= 4
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert re.match(rf"# 0*{int(record.name[:4])}\b", text), f"{record.name}: its number is its title's"
        assert len(re.findall(r"^## ", text, re.MULTILINE)) >= 4, (
            f"{record.name}: context, decision, costs, alternatives"
        )
        assert f"({record.name})" in index, f"{record.name} is not in the index"


def test_every_room_stands_in_the_table_of_the_house() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| room \|.*?\n\n", text, re.DOTALL)
    named: set[str] = set()
    for row in table.strip().splitlines()[2:]:
        first, *siblings = re.findall(r"`([^`]+)`", row.split("|")[1])
        named |= {first, *(f"{first.rpartition('/')[0]}/{sibling}" for sibling in siblings)}
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in (*tracked(".py"), *tracked(".lua"))}
    rooms = {room for room in rooms if "/" in room and room.partition("/")[0] in ("convscope", "service", "workers")}
    assert sorted(rooms - named) == [] and sorted(room for room in named if not (ROOT / room).is_dir()) == []


def test_every_room_says_what_it_may_import() -> None:
    rooms = [path for path in tracked(".py") if path.name == "__init__.py" and path.parent.parent != ROOT]
    rooms = [path for path in rooms if path.relative_to(ROOT).parts[0] in ("convscope", "service", "workers")]
    silent = [str(path.relative_to(ROOT)) for path in rooms if "May import" not in path.read_text(encoding="utf-8")]
    assert [path for path in silent if not path.startswith("workers/networks/")] == []
