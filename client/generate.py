"""Writes the parts of the client that follow from others.

`python client/generate.py` writes, from openapi/openapi.json, `schemas.py` (a TypedDict for each schema of the
document) and `_async/operations.py` (a method for each operation that computes), and from `_async/` the blocking client
in `_sync/`. Nothing here is part of the wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

import unasync

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "openapi" / "openapi.json"
PACKAGE = Path("convscope_client")
WRITTEN = "Written by client/generate.py; changes here are lost."
BY_HAND = frozenset({"waiting.py"})
"""What the blocking client has of its own."""
NAMES = {
    **{f"Async{name}": name for name in ("Client", "Job", "Jobs", "Operations", "Resources", "Result", "Sender")},
    "AsyncBaseTransport": "BaseTransport",
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
}
IMAGES = frozenset({"image", "images"})
WIDTH = 120
Schema = Mapping[str, Any]


class Annotations:
    """Python annotations of JSON schemas: of what is sent, or of what comes back."""

    def __init__(self, prefix: str, *, sent: bool) -> None:
        self._prefix = prefix
        self._list, self._dict = ("Sequence", "Mapping") if sent else ("list", "dict")

    def of(self, schema: Schema) -> str:
        """The annotation of one schema."""
        return " | ".join(dict.fromkeys(sorted(self._kinds(schema), key="None".__eq__)))

    def _kinds(self, schema: Schema) -> Iterator[str]:
        if "$ref" in schema:
            yield self._prefix + schema["$ref"].rpartition("/")[2]
        elif "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            yield f"Literal[{', '.join(json.dumps(value, ensure_ascii=False) for value in values)}]"
        elif "anyOf" in schema or "oneOf" in schema:
            for one in schema.get("anyOf", schema.get("oneOf", ())):
                yield from self._kinds(one)
        else:
            yield self._plain(schema)

    def _plain(self, schema: Schema) -> str:
        kind = schema.get("type")
        if kind == "array":
            items = schema.get("prefixItems") or [schema.get("items") or {}]
            return f"{self._list}[{' | '.join(dict.fromkeys(self.of(item) for item in items))}]"
        if kind == "object":
            values = schema.get("additionalProperties")
            return f"{self._dict}[str, {self.of(values) if isinstance(values, Mapping) else 'Any'}]"
        if schema.get("format") == "binary":
            return "bytes"
        return {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "None"}.get(
            str(kind), "Any"
        )


def wrapped(text: str, indent: str, hanging: str = "") -> str:
    """Text in lines that fit, the first behind `indent`, the others behind `hanging` as well."""
    return textwrap.fill(
        " ".join(text.split()), WIDTH, initial_indent=indent, subsequent_indent=indent + hanging, break_on_hyphens=False
    )


def docstring(text: str, indent: str) -> str:
    """A docstring of one paragraph."""
    text = text.replace("\\", "\\\\").strip()
    if len(indent + text) + 6 <= WIDTH and "\n" not in text:
        return f'{indent}"""{text}"""'
    return f'{indent}"""{wrapped(text, indent).strip()}\n{indent}"""'


def schemas_module(document: Schema) -> str:
    """`schemas.py`: what is sent and what comes back, as types."""
    found: dict[str, Schema] = document["components"]["schemas"]
    parts = [
        '"""What is sent to the service and what comes back, as types; they check nothing at run time.\n\n'
        f'{WRITTEN}\n"""',
        "from __future__ import annotations",
        "from collections.abc import Mapping, Sequence",
        "from typing import Any, Literal, NotRequired, TypeAlias, TypedDict",
    ]
    sent = sent_schemas(document)
    parts += [typed_dict(name, schema, sent=name in sent) for name, schema in found.items()]
    parts.append(drawing(document))
    return "\n\n\n".join(parts) + "\n"


def sent_schemas(document: Schema) -> set[str]:
    """Names of the schemas that requests consist of."""
    found: dict[str, Schema] = document["components"]["schemas"]
    left = [name for name in found if name.endswith("Request")]
    seen: set[str] = set()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += references(found[name])
    return seen


def references(schema: object) -> Iterator[str]:
    """Names of the schemas that one refers to."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        schema = schema.values()
    if isinstance(schema, Iterable) and not isinstance(schema, str):
        for one in schema:
            yield from references(one)


def typed_dict(name: str, schema: Schema, *, sent: bool) -> str:
    """One schema as a type."""
    annotations = Annotations("", sent=sent)
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if not properties:
        text = docstring(schema.get("description", f"A value of {name}."), "")
        return f"{name}: TypeAlias = {annotations.of(schema)!r}\n{text}"
    required = frozenset(schema.get("required", ()))

    def annotation(field: str) -> str:
        text = annotations.of(properties[field])
        return text if field in required else f"NotRequired[{text}]"

    about = schema.get("description", f"{name}.")
    if any(not field.isidentifier() or iskeyword(field) for field in properties):
        fields = ", ".join(f"{field!r}: {annotation(field)!r}" for field in properties)
        return f"{name} = TypedDict({name!r}, {{{fields}}})\n{docstring(about, '')}"
    lines = [f"class {name}(TypedDict):", docstring(about, "    "), ""]
    for field, described in properties.items():
        lines.append(f"    {field}: {annotation(field)}")
        if "description" in described:
            lines.append(docstring(described["description"], "    "))
    return "\n".join(lines)


ABOUT_ANSWERS = frozenset({"data", "fields", "format"})
"""Query parameters of a result that say what is answered, not how a picture is drawn."""


def drawing(document: Schema) -> str:
    """How a picture is drawn, as a type: the query of a result's address, as far as it is about pictures."""
    lines = ["class Drawing(TypedDict, total=False):"]
    lines += ['    """How a picture is drawn; what is left out is as the operation draws it."""', ""]
    annotations = Annotations("", sent=True)
    names = {one["name"] for one in parameters(document, "/v1/jobs/{job_id}/pictures/{name}", "query")} - ABOUT_ANSWERS
    for one in parameters(document, "/v1/jobs/{job_id}/result", "query"):
        if one["name"] in names:
            lines.append(f"    {one['name']}: {annotations.of(one['schema'])}")
            lines.append(docstring(one["schema"].get("description", one.get("description", "")), "    "))
    return "\n".join(lines)


def parameters(document: Schema, path: str, place: str) -> list[Schema]:
    """The parameters of reading an address that stand in that place."""
    return [one for one in document["paths"][path]["get"].get("parameters", ()) if one["in"] == place]


def operations_module(document: Schema) -> str:
    """`_async/operations.py`: a method for each operation that computes."""
    methods = [
        method(document, post)
        for path, methods in document["paths"].items()
        if (post := methods.get("post")) and path == f"/v1/{post['operationId']}" and "operations" in post["tags"]
    ]
    head = [
        f'"""The operations that compute, a method for each.\n\n{WRITTEN}\n"""',
        "from __future__ import annotations",
        "from collections.abc import Mapping, Sequence\nfrom typing import Any, Literal",
        "from convscope_client import schemas\nfrom convscope_client._async.job import AsyncJob\n"
        "from convscope_client._async.jobs import AsyncJobs\nfrom convscope_client.images import ImagesInput",
        "class AsyncOperations(AsyncJobs):\n"
        '    """Every operation, with what it takes. What is None is left to the service; `submit` says what the last\n'
        '    three arguments of each mean."""',
    ]
    return "\n\n".join([*head[:-1], "\n" + head[-1], *methods]) + "\n"


def method(document: Schema, post: Schema) -> str:
    """The method of one operation."""
    schemas: dict[str, Schema] = document["components"]["schemas"]
    request = schemas[post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    properties: Mapping[str, Schema] = request["properties"]
    own = [name for name in properties if name not in IMAGES]
    annotations = Annotations("schemas.", sent=True)
    arguments, about = [], []
    takes_image, takes_set = "image" in properties, "image_set" in properties
    if takes_image:
        arguments.append("image: ImagesInput" + (" | None = None" if takes_set else ""))
        instead = ", where it is no set" if takes_set else ""
        about.append(f"image: One image, or several{instead}; as paths, ids, bytes, pictures or arrays.")
    arguments.append("*")
    for name in own:
        text = annotations.of(properties[name])
        text = text if text.endswith("None") or text == "Any" else f"{text} | None"
        arguments.append(f"{name}: {text} = None")
        about.append(f"{name}: {described(properties[name])}")
    arguments += ["wait_s: float | None = None", "fresh: bool = False", "idempotency_key: str | None = None"]
    facts = facts_of(document, post)
    request_text = ", ".join(f'"{name}": {name}' for name in own)
    lines = [
        f"    async def {post['operationId'].replace('-', '_')}(self, {', '.join(arguments)}) -> AsyncJob[{facts}]:",
        f'        """{wrapped(post["summary"], " " * 8).strip()}',
        "",
        "        Args:",
        *(wrapped(line, " " * 12, "    ") for line in about),
        '        """',
        f"        request: dict[str, Any] = {{{request_text}}}",
        f"        return await self.submit({post['operationId']!r}, {'image' if takes_image else 'None'}, request, "
        "wait_s=wait_s, fresh=fresh, idempotency_key=idempotency_key)",
    ]
    return "\n".join(lines)


def described(schema: Schema) -> str:
    """What a property is, and its default."""
    text = str(schema.get("description") or "").strip().replace("\\", "\\\\")
    text = text if not text or text[-1] in ".!?:" else text + "."
    default = schema.get("default")
    if default not in (None, [], {}):
        text = f"{text} Default: {json.dumps(default, ensure_ascii=False)}."
    return text.strip() or "As its type says."


def facts_of(document: Schema, post: Schema) -> str:
    """The type of the facts that an operation gives, by the schema of its answer."""
    schemas: dict[str, Schema] = document["components"]["schemas"]
    answer = post["responses"]["200"]["content"]["application/json"]["schema"]
    for name in references(answer):
        for result in references(schemas[name]["properties"]["result"]):
            for facts in references(schemas[result]["properties"]["facts"]):
                return f"schemas.{facts}"
    raise ValueError(f"{post['operationId']}: the schema of its answer does not lead to its facts")


def write(root: Path, document: Schema) -> None:
    """Write everything below `root`, where the hand-written part of the package lies."""
    package = root / PACKAGE
    (package / "schemas.py").write_text(schemas_module(document), encoding="utf-8")
    (package / "_async" / "operations.py").write_text(operations_module(document), encoding="utf-8")
    tidy(package)
    written = [path for path in sorted((package / "_async").glob("*.py")) if path.name not in {"__init__.py", *BY_HAND}]
    rule = unasync.Rule(f"{package / '_async'}/", f"{package / '_sync'}/", additional_replacements=NAMES)
    unasync.unasync_files([str(path) for path in written], [rule])
    for path in written:
        made = package / "_sync" / path.name
        head, quotes, rest = made.read_text(encoding="utf-8").removeprefix('"""').partition('"""')
        note = head if WRITTEN in head else f"{head.rstrip()}\n\nMade from `_async/{path.name}`. {WRITTEN}\n"
        made.write_text('"""' + note + quotes + rest, encoding="utf-8")
    tidy(package)


def tidy(package: Path) -> None:
    """Imports in order, lines broken, as everywhere in our source."""
    style = ["--quiet", "--no-cache", "--config", str(DOCUMENT.parents[1] / "pyproject.toml"), str(package)]
    for command in (["check", "--fix", "--select", "I,F401"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *style], check=True)


if __name__ == "__main__":
    write(HERE, json.loads(DOCUMENT.read_text(encoding="utf-8")))
