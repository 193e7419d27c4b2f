"""The curl commands of a document, read as the requests that they are."""

from __future__ import annotations

import shlex
from urllib.parse import parse_qsl, urlsplit

SHELL = frozenset({"", "sh", "bash", "console"})


class Curl:
    """What a curl command line asks for."""

    def __init__(self, line: str) -> None:
        words = shlex.split(line)
        assert words[0] == "curl"
        self.fields: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.data: str | None = None
        self.output: str | None = None
        self.method = "GET"
        addresses = []
        rest = iter(words[1:])
        for word in rest:
            if word == "-F":
                name, _, value = next(rest).partition("=")
                self.fields.append((name, value))
                self.method = "POST"
            elif word == "-H":
                name, _, value = next(rest).partition(":")
                self.headers[name] = value.strip()
            elif word in ("-o", "--output"):
                self.output = next(rest)
            elif word in ("-d", "--data", "--data-binary"):
                self.data = next(rest)
                self.method = "POST"
            elif word in ("-X", "--request"):
                self.method = next(rest)
            elif not word.startswith(("-", "<<")):  # nor is a here-document an address
                addresses.append(word)
        (self.url,) = addresses
        self.path = urlsplit(self.url).path
        self.query = dict(parse_qsl(urlsplit(self.url).query))

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fields}


def blocks(text: str) -> list[str]:
    """The command lines of a document's shell blocks; a line that ends in a backslash goes on."""
    found: list[str] = []
    language: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            language = line[3:].strip() if language is None else None
        elif language in SHELL and line.strip():
            goes_on = found and found[-1].endswith("\\")
            found[-1:] = [found[-1][:-1] + line.strip()] if goes_on else [*found[-1:], line.strip()]
    return found


def curls(text: str) -> list[Curl]:
    """The curl commands of a document, without what they are piped into."""
    return [Curl(line.partition(" | ")[0].partition(" > ")[0]) for line in blocks(text) if line.startswith("curl ")]
