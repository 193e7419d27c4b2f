"""The page /docs: the OpenAPI document for a person to read, with types, allowed values, defaults and examples.

Knows nothing of the service but its document. No scripts; its style sheet is one of the explorer's files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt

ADDRESS = "http://service.invalid"
"""Stands in the made page for the address that it was asked at, which each answer puts in."""
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_FORMATS = (("PNG", "image/png", "png"), ("JSON", "application/json", "json"))
_ARRAYS = ("Arrays", "application/vnd.safetensors", "safetensors")
_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
}
_MOST_VALUES = 40

Node = Mapping[str, Any]


def docs_page(document: Node, problems: Sequence[tuple[int, str, str, str]]) -> str:
    """The page.

    Args:
        document: OpenAPI 3.1.
        problems: status, path, name and title of each type of problem.
    """
    return _Page(document, problems).html()


def markdown(text: str) -> str:
    """Text with markdown's marks as HTML; HTML in it is shown, not obeyed."""
    return str(_MARKDOWN.render(text))


def inline(text: str) -> str:
    """One line of such text."""
    return str(_MARKDOWN.renderInline(text))


def page(title: str, body: str, aside: str = "") -> str:
    """A whole page in our style."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="/explorer/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/explorer/tokens.css"><link rel="stylesheet" href="/explorer/docs.css"></head>'
        '<body><header><a class="brand" href="/">'
        '<img src="/explorer/icon.svg" alt="" width="28" height="28">Convscope</a>'
        '<nav aria-label="Pages"><a href="/">Explorer</a><a href="/docs">Interface</a>'
        '<a href="/openapi.json">openapi.json</a></nav></header>'
        f'<div class="page">{aside}<main>{body}</main></div></body></html>'
    )


class _Page:
    def __init__(self, document: Node, problems: Sequence[tuple[int, str, str, str]]) -> None:
        self._document = document
        self._problems = problems
        self._schemas: Node = document["components"]["schemas"]
        self._mentioned: dict[str, None] = {}
        """Objects that fields point to, in the order in which they are met."""
        taken = [set(schema["properties"]) for name, schema in self._schemas.items() if name.endswith("Request")]
        self._common: set[str] = set.intersection(*taken) if taken else set()

    def html(self) -> str:
        groups: dict[str, list[tuple[str, str, Node]]] = {}
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                tag = (operation.get("tags") or ["other"])[0]
                groups.setdefault(tag, []).append((path, method, operation))
        groups = {"operations": groups.pop("operations", []), **groups}
        sections = [self._introduction()]
        for tag, entries in groups.items():
            body = "".join(self._operation(*entry) for entry in entries)
            sections.append(f'<h2 id="{escape(tag)}">{escape(tag.capitalize())}</h2>{body}')
        sections.append(self._objects())
        sections.append(self._problem_table())
        return page(self._document["info"]["title"], "".join(sections), self._contents(groups))

    def _contents(self, groups: Mapping[str, list[tuple[str, str, Node]]]) -> str:
        parts = []
        for tag, entries in groups.items():
            items = "".join(
                f'<li><a href="#{escape(operation["operationId"])}">{escape(_short(path, method, tag))}</a></li>'
                for path, method, operation in entries
            )
            parts.append(f'<li><a href="#{escape(tag)}"><b>{escape(tag.capitalize())}</b></a><ul>{items}</ul></li>')
        more = '<li><a href="#objects"><b>Objects</b></a></li><li><a href="#problems"><b>Problems</b></a></li>'
        return f'<nav class="contents" aria-label="Contents"><ul>{"".join(parts)}{more}</ul></nav>'

    def _introduction(self) -> str:
        info = self._document["info"]
        first = f"curl --fail-with-body -F image=@YOUR.jpg -H 'Accept: image/png' {ADDRESS}/v1/feature-maps -o maps.png"
        return (
            f"<h1>{escape(info['title'])}: the interface</h1>{markdown(info.get('description', ''))}"
            f"<p>The first picture, with an image and nothing else:</p>{_code(first)}"
            "<p>A request is a form (<code>-F</code> for each field, files among them), JSON, or an urlencoded form "
            "(<code>-d</code>) where no file is sent. What it is answered with is said by <code>Accept</code>, or by "
            "<code>?format=</code> where headers cannot be set: a picture, JSON with facts and small arrays, or all "
            "arrays as safetensors. How a picture is drawn is said in the query and changes nothing that is "
            "computed.</p>"
        )

    def _operation(self, path: str, method: str, operation: Node) -> str:
        name = escape(operation["operationId"])
        described = operation.get("description", "")
        summary = operation.get("summary", "")
        said = inline(summary) if described and summary not in described else ""
        body = operation.get("requestBody", {}).get("content", {})
        schema = self._resolved(body.get("application/json", {}).get("schema", {}))
        parts = [
            f'<section class="operation" id="{name}"><h3><span class="method {method}">{method.upper()}</span> '
            f"<code>{escape(path)}</code></h3>",
            f"<p>{said}</p>" if said else "",
            markdown(described or summary),
            self._examples(path, method, operation) if path.startswith("/v1/") else "",
            self._fields("Fields of the request", schema, operation["operationId"]),
            self._parameters(operation, "query", "Query"),
            self._parameters(operation, "path", "In the address"),
            self._parameters(operation, "header", "Headers"),
            self._answers(operation),
            "</section>",
        ]
        return "".join(parts)

    def _examples(self, path: str, method: str, operation: Node) -> str:
        bodies = operation.get("requestBody", {}).get("content", {})
        answers = operation["responses"].get("200", {}).get("content", {})
        if method != "post" or "application/json" not in bodies:
            return ""
        example: dict[str, Any] = dict(bodies["application/json"].get("example", {}))
        takes_file = "multipart/form-data" in bodies and "image" in example
        fields = {name: value for name, value in example.items() if name != "image"}
        flag = "-F" if takes_file else "-d"
        form = ("-F image=@YOUR.jpg " if takes_file else "") + " ".join(
            f"{flag} {shlex.quote(f'{name}={_field_text(value)}')}" for name, value in fields.items()
        )
        name = path.rpartition("/")[2]
        long = name in ("maximize", "cka")
        prefer = " -H 'Prefer: wait=60'" if long else ""
        shown = []
        for title, media, ending in (*_FORMATS, _ARRAYS):
            if media in answers:
                call = f"curl --fail-with-body {form.strip()} \\\n  -H 'Accept: {media}'{prefer} {ADDRESS}{path}"
                shown.append((title, f"{call} -o {name}.{ending}" if ending != "json" else call))
        sent = json.dumps(example, ensure_ascii=False)
        shown.append(("JSON body", f"curl --fail-with-body --json {shlex.quote(sent)}{prefer} \\\n  {ADDRESS}{path}"))
        blocks = "".join(f"<h5>{escape(title)}</h5>{_code(text)}" for title, text in shown)
        return f'<div class="examples"><h4>Examples</h4>{blocks}</div>'

    def _fields(self, title: str, schema: Node, owner: str) -> str:
        properties = schema.get("properties", {})
        if not properties:
            return ""
        required = set(schema.get("required", ()))
        # What every operation takes stands behind what this one takes.
        ordered = sorted(properties, key=lambda name: (name in self._common, name == "image_set"))
        rows = "".join(
            _row(name, self._type(node), self._default(node, name in required), self._meaning(node))
            for name, node in ((name, properties[name]) for name in ordered)
        )
        return _table(title, rows, owner)

    def _meaning(self, node: Node) -> str:
        """What a place means: its description, else that of the object which it takes."""
        for one in (node, *node.get("anyOf", ())):
            if described := self._resolved(one).get("description"):
                return str(described).partition("\n\n")[0]
        return ""

    def _parameters(self, operation: Node, place: str, title: str) -> str:
        rows = "".join(
            _row(
                one["name"],
                self._type(one.get("schema", {})),
                self._default(one.get("schema", {}), one.get("required", False)),
                one.get("description") or one.get("schema", {}).get("description", ""),
            )
            for one in operation.get("parameters", ())
            if one["in"] == place
        )
        return _table(title, rows, operation["operationId"]) if rows else ""

    def _answers(self, operation: Node) -> str:
        rows = "".join(
            f"<tr><td><b>{escape(status)}</b></td><td>{inline(answer.get('description', ''))}</td>"
            f"<td>{', '.join(f'<code>{escape(media)}</code>' for media in answer.get('content', {}))}</td></tr>"
            for status, answer in operation["responses"].items()
        )
        heads = "<tr><th>Status</th><th>Meaning</th><th>As</th></tr>"
        table = _scrolled(f"Answers: {operation['operationId']}", heads, rows)
        return f"<details><summary>Answers</summary>{table}</details>"

    def _objects(self) -> str:
        done: dict[str, str] = {}
        while left := [name for name in self._mentioned if name not in done]:
            for name in left:
                schema = self._schemas[name]
                body = self._fields("", schema, name) or f"<p>{self._type(schema)}</p>"
                head = f'<section id="object-{escape(name)}"><h3>{escape(name)}</h3>'
                done[name] = f"{head}{markdown(schema.get('description', ''))}{body}</section>"
        return f'<h2 id="objects">Objects</h2>{"".join(done[name] for name in sorted(done))}'

    def _problem_table(self) -> str:
        rows = "".join(
            f'<tr><td>{status}</td><td><a href="{escape(path)}">{escape(name)}</a></td><td>{inline(title)}</td></tr>'
            for status, path, name, title in self._problems
        )
        heads = "<tr><th>Status</th><th>Name</th><th>Meaning</th></tr>"
        return (
            '<h2 id="problems">Problems</h2><p>Every error is a problem document (RFC 9457); its <code>type</code> '
            f"leads to a page that says what to do.</p>{_scrolled('Problems', heads, rows)}"
        )

    def _resolved(self, node: Node) -> Node:
        reference = node.get("$ref")
        return self._schemas[reference.rpartition("/")[2]] if reference else node

    def _type(self, node: Node) -> str:
        """What a place takes, as HTML: kind, allowed values, bounds."""
        return " or ".join(dict.fromkeys(self._kinds(node))) or "anything"

    def _kinds(self, node: Node) -> Iterator[str]:
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            target = self._schemas[name]
            if "enum" in target:
                yield from self._kinds(target)
            else:
                self._mentioned.setdefault(name)
                yield f'<a href="#object-{escape(name)}">{escape(name)}</a>'
            return
        branches = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
        if branches:
            for branch in branches:
                yield from self._kinds(branch)
        elif "enum" in node:
            yield _values(node["enum"])
        elif "const" in node:
            yield _values([node["const"]])
        elif node.get("type") == "array":
            yield self._list(node)
        elif node.get("type") == "null":
            return
        elif node.get("format") == "binary":
            yield "file"
        elif "type" in node:
            yield _KINDS.get(node["type"], str(node["type"])) + _bounds(node)

    def _list(self, node: Node) -> str:
        parts = node.get("prefixItems")
        if parts:
            return "[" + ", ".join(self._type(part) for part in parts) + "]"
        least, most = node.get("minItems", 0), node.get("maxItems")
        count = f", up to {most}" if most else f", at least {least}" if least > 1 else ""
        return f"list of {self._type(node.get('items', {}))}{count}"

    def _default(self, node: Node, required: bool) -> str:
        if required:
            return "<b>required</b>"
        default = node.get("default")
        if default is None or default in ({}, []):
            return "–"
        return f"<code>{escape(_field_text(default))}</code>"


def _short(path: str, method: str, tag: str) -> str:
    if tag == "operations" and method == "post":
        return path.rpartition("/")[2]
    return f"{method.upper()} {path.removeprefix('/v1')}"


def _code(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _field_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _values(values: Sequence[Any]) -> str:
    shown = " ".join(f"<code>{escape(str(value))}</code>" for value in values[:_MOST_VALUES])
    return shown if len(values) == 1 else f'<span class="values">one of {shown}</span>'


def _bounds(node: Node) -> str:
    """The bounds of a number or text, in words."""
    low = _bound(node, "minimum", "exclusiveMinimum", "above")
    high = _bound(node, "maximum", "exclusiveMaximum", "below")
    said = []
    if low and high:
        said.append(f"{low} to {high}")
    elif low:
        said.append(low if "above" in low else f"{low} or more")
    elif high:
        said.append(high if "below" in high else f"{high} or less")
    if "pattern" in node:
        said.append(f"as <code>{escape(node['pattern'])}</code>")
    if "maxLength" in node:
        said.append(f"up to {node['maxLength']} characters")
    return f" ({', '.join(said)})" if said else ""


def _bound(node: Node, closed: str, open_: str, word: str) -> str:
    if open_ in node:
        return f"{word} {node[open_]:,}"
    return f"{node[closed]:,}" if closed in node else ""


def _row(name: str, kind: str, default: str, description: str) -> str:
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{kind}</td><td>{default}</td>'
        f"<td>{inline(description)}</td></tr>"
    )


def _table(title: str, rows: str, owner: str) -> str:
    heads = "<tr><th>Name</th><th>Takes</th><th>Default</th><th>Meaning</th></tr>"
    return (f"<h4>{escape(title)}</h4>" if title else "") + _scrolled(f"{title or 'Properties'}: {owner}", heads, rows)


def _scrolled(label: str, heads: str, rows: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead>{heads}</thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
