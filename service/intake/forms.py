"""Bodies as requests: text fields read by the operation's own schema, JSON read strictly, both validated alike.

The bytes of a body are `bodies`' affair, those of images `uploads`'.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import FieldError, ProblemError, invalid_request
from convscope.protocol.requests import IMAGE_ID, CommonRequest
from service.http.problems import from_validation, pointer
from service.intake.names import canonical, canonical_name

IMAGE_FIELDS = frozenset({"image", "images"})
MASK = "mask"
"""A file of a form, beside the images, of operations that have a property of that name."""
NO_IMAGE = "an image is a file (`image=@FILE`; is the `@` missing?), an id `img-…`, or JSON with `id` or `base64`"
NOT_JSON = "not JSON"
REQUEST_PART = "request"
MOST_VALUES = 1 << 17
"""In a request as JSON or as a form's fields; each takes some microseconds to read."""
MOST_NAMES = 256
"""Properties of one object; no request has so many, and each that is wrong would be an error of its own."""
MOST_DEPTH = 32
"""Objects and lists in each other; no request has more than five."""
_TRUTH = {"true": True, "false": False}


def read_json(data: bytes, most: int = MOST_VALUES) -> dict[str, Any]:
    """A JSON object from bytes: no property twice, no NaN or infinity, nothing that is not Unicode text.

    Args:
        most: values that it may have.

    Raises:
        ProblemError: `malformed-body`, `body-too-large`.
    """
    try:
        text = data.decode("utf-8")
        _bound([text], most)
        value = _loaded(text)
    except UnicodeError as error:
        raise ProblemError("malformed-body", "The JSON is not Unicode text in UTF-8.") from error
    except RecursionError as error:
        raise ProblemError("malformed-body", "The JSON is nested too deeply.") from error
    except ValueError as error:
        raise ProblemError("malformed-body", f"The body is not JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", "The body must be a JSON object.")
    return value


def _bound(texts: Iterable[str], most: int = MOST_VALUES) -> None:
    """Refuse texts of too many values, before any of them is made.

    Raises:
        ProblemError: `body-too-large`.
    """
    # Before each value but the first stands one of these; a few in strings do not matter, and base64 has none.
    if sum(1 + text.count(",") + text.count("[") + text.count("{") for text in texts) > most:
        raise ProblemError("body-too-large", f"A request may have {most:,} values at most.", limit=most)


def _loaded(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError, UnicodeError: it is none.
        RecursionError: it is nested too deeply.
        ProblemError: `body-too-large` for an object of too many properties.
    """
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            break
    else:
        raise RecursionError
    if "\\u" in text:  # halves of surrogate pairs, which are no text, can only come escaped
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise ProblemError(
            "body-too-large",
            f"An object may have {MOST_NAMES} properties; here one has {len(pairs):,}.",
            limit=MOST_NAMES,
        )
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the property {twice[:80]!r} is given twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def urlencoded(data: bytes, most: int) -> list[tuple[str, str]]:
    """The fields of an application/x-www-form-urlencoded body, in their order; so many of them at most.

    Raises:
        ProblemError: `malformed-body`.
    """
    if not data.strip():
        return []
    try:
        text = data.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=most)
    except ValueError as error:
        detail = f"The body is no urlencoded form of at most {most} fields: {str(error)[:100]}."
        raise ProblemError("malformed-body", detail) from error


def read_fields(
    operation: Operation[Any], fields: Sequence[tuple[str, str]], request_part: bytes | None = None
) -> dict[str, Any]:
    """The properties of an operation's request from a form; see `properties_of`."""
    return properties_of(operation.request, fields, request_part)


def properties_of(
    request: type[BaseModel], fields: Sequence[tuple[str, str]], request_part: bytes | None = None
) -> dict[str, Any]:
    """A request's properties from a form's text fields, and from a `request` part that carries the whole object.

    A list is a repeated field, or its items separated by commas; an object is JSON text, an image also its id.

    Raises:
        ProblemError: `malformed-body`, `body-too-large`, `invalid-request`.
    """
    _bound(text for _, text in fields)
    given: dict[str, list[str]] = {}
    for name, text in fields:
        given.setdefault(name, []).append(text)
    properties = schema(request)["properties"]
    found: dict[str, Any] = {}
    if REQUEST_PART in given and REQUEST_PART not in properties:
        texts = given.pop(REQUEST_PART)
        if len(texts) > 1 or request_part is not None:
            raise invalid_request([FieldError("/request", "given more than once")])
        request_part = texts[0].encode()
    if request_part is not None:
        found = canonical(request, read_json(request_part))
    errors = []
    for name, texts in given.items():
        own = canonical_name(request, name)
        twice = own != name and own in given
        if twice or own in found:
            where = f"as `{own}` as well" if twice else "both in the part `request` and as a field"
            errors.append(FieldError(pointer([name]), f"given {where}"))
            continue
        try:
            found[own] = _convert(texts, _Kinds.of(request, own))
        except ValueError as error:
            message = NO_IMAGE if name in IMAGE_FIELDS | {MASK} and str(error).startswith(NOT_JSON) else str(error)
            errors.append(FieldError(pointer([name]), message))
    if errors:
        raise invalid_request(errors)
    return found


def validate(operation: Operation[Any], data: dict[str, Any]) -> CommonRequest:
    """The request of an operation from its properties.

    Raises:
        ProblemError: `invalid-request`, with the place of each error.
    """
    data = canonical(operation.request, data)
    try:
        return operation.request.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data, *known_names(operation.request)) from error


@cache
def schema(request: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a request."""
    return request.model_json_schema()


@cache
def known_names(request: type[BaseModel]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every property name of a request, and those of the objects in it."""
    whole = schema(request)
    parts = whole.get("$defs", {}).values()
    within = dict.fromkeys(name for part in parts for name in part.get("properties", {}))
    return tuple(whole["properties"]), tuple(within)


class _Kinds:
    """Which kinds of JSON value a place in a schema takes."""

    def __init__(self, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
        self.kinds: set[str] = set()
        self.items: list[_Kinds] = []
        self._definitions = definitions
        self._collect(node)

    @classmethod
    def of(cls, request: type[BaseModel], name: str) -> _Kinds:
        """Those of a property; any text for one that the schema does not know, which validation then refuses."""
        whole = schema(request)
        found = cls(whole["properties"].get(name, {"type": "string"}), whole.get("$defs", {}))
        if name in IMAGE_FIELDS:
            # What may stand for an image is looked at below; other text has been sent for a file.
            for kinds in (found, *found.items):
                kinds.kinds.discard("string")
        return found

    def _collect(self, node: Mapping[str, Any]) -> None:
        if "$ref" in node:
            self._collect(self._definitions[node["$ref"].rpartition("/")[2]])
        for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
            self._collect(branch)
        kind = node.get("type")
        if kind is None and ("enum" in node or "const" in node):
            kind = "string"
        if kind is None:
            return
        self.kinds.add(kind)
        if kind == "array":
            for item in [node["items"]] if isinstance(node.get("items"), dict) else node.get("prefixItems", []):
                self.items.append(_Kinds(item, self._definitions))


def _convert(texts: Sequence[str], kinds: _Kinds) -> Any:
    """The JSON value that the texts of one field stand for.

    Raises:
        ValueError: the field is given more than once and takes no list, or is not the JSON that it starts as.
    """
    if "array" not in kinds.kinds:
        if len(texts) > 1:
            raise ValueError("given more than once, and takes one value")
        return _scalar(texts[0], kinds)
    if len(texts) == 1:
        text = texts[0].strip()
        if text.startswith("["):
            return _parsed(text)
        if "," not in text and kinds.kinds - {"array", "null"}:
            # One value where one value is possible as well; the schema decides what it may be.
            single = _scalar(text, kinds)
            if not isinstance(single, str) or "string" in kinds.kinds:
                return single
        if text.startswith("{") and "object" in kinds.kinds:
            return _parsed(text)
    item = kinds.items[0] if kinds.items else kinds
    return [_scalar(part, item) for text in texts for part in _split(text)]


def _split(text: str) -> list[str]:
    """The items of a list; JSON objects and lists stay whole."""
    if text.strip().startswith(("{", "[")):
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _scalar(text: str, kinds: _Kinds) -> Any:
    stripped = text.strip()
    if "object" in kinds.kinds and IMAGE_ID.fullmatch(stripped):
        return {"id": stripped}
    if (stripped.startswith("{") and "object" in kinds.kinds) or (
        stripped.startswith("[") and "array" in kinds.kinds and stripped.endswith("]")
    ):
        return _parsed(stripped)
    # Where text is possible as well, digits may be a name; what they are is for whoever knows the names.
    if kinds.kinds & {"integer", "number"} and "string" not in kinds.kinds:
        number = _number(stripped)
        if number == 0 and stripped.startswith("-") and "string" in kinds.kinds:
            return text  # `-0`, the other side of the first output, is no number's word
        if number is not None and (isinstance(number, int) or "number" in kinds.kinds):
            return number
    if "boolean" in kinds.kinds and stripped.lower() in _TRUTH:
        return _TRUTH[stripped.lower()]
    if kinds.kinds and kinds.kinds <= {"object", "null"}:
        return _parsed(stripped)
    return text


def _number(text: str) -> int | float | None:
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parsed(text: str) -> Any:
    try:
        return _loaded(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{NOT_JSON}: {str(error)[:120]}") from None
