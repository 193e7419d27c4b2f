"""Who a request may come from: the names that the service answers to, and pages of other sites.

A browser sends requests for any page that its user looks at. A page whose name resolves to this machine would read
everything as if it were the service's own, and any page could send forms here. Programs are not concerned: they send
the host they mean, and neither Origin nor Sec-Fetch-Site. Pure ASGI, like request_log.RequestLog.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from functools import cache

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from convscope.protocol.problems import ProblemError
from service.http.problems import problem_response

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_EVERY = "*"
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Strangers:
    """Refuses requests for other hosts, and changes that pages of other sites ask for.

    Args:
        app: what answers the rest.
        hosts: names that the service answers to, beside its machine's own; `*`: whatever a request names.
        origins: whose pages may ask for changes, as in the setting `cors_origins`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            try:
                headers = Headers(scope=scope)
                host = _named_host(headers)
                self._check_host(host)
                if scope["method"] not in _READING:
                    self._check_origin(headers, host)
            except ProblemError as error:
                await problem_response(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        """Refuse a name that is not the service's.

        Raises:
            ProblemError: `misdirected`.
        """
        if _EVERY in self._hosts:
            return
        name = _name_of(host)
        if name in self._hosts or name in own_names() or name.endswith(".localhost") or _is_address(name):
            return
        raise ProblemError("misdirected", f"This service does not answer to {name[:100]!r}.")

    def _check_origin(self, headers: Headers, host: str) -> None:
        """Refuse a change that a page of another site asks for.

        Raises:
            ProblemError: `cross-site`.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if _EVERY in self._origins or origin in self._origins:
            return
        foreign = site not in ("same-origin", "none") if site is not None else not _is_same(origin, host)
        if foreign:
            said = origin if origin and origin != "null" else "another site"
            raise ProblemError("cross-site", f"A page of {said[:200]} may not change anything here.")


def _named_host(headers: Headers) -> str:
    """The one host that a request names.

    Raises:
        ProblemError: `bad-host`.
    """
    named = headers.getlist("host")
    if len(named) != 1:
        raise ProblemError("bad-host", f"A request names one host; this one has {len(named)} Host headers.")
    if not _HOST.fullmatch(named[0].strip()):
        raise ProblemError("bad-host", "The Host header is not a name or an address, with a port where there is one.")
    return named[0].strip()


def _name_of(host: str) -> str:
    """A host without its port, in lower case; an IPv6 address without its brackets."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    """Whether it is an address: no page but one served from there has it as its origin, unlike a name, whose owner
    lets it resolve to what he likes."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str | None, host: str) -> bool:
    """Whether a page's origin is this host; a request without an origin is no page's. A proxy may have taken TLS off,
    so the scheme tells nothing."""
    if origin is None:
        return True
    scheme, _, there = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme, "")
    return bool(there) and _with_port(there, default) in {_with_port(host, port) for port in (default, "80")}


def _with_port(host: str, default: str) -> tuple[str, str]:
    after = host.rpartition("]")[2] if host.startswith("[") else host
    port = after.partition(":")[2]
    return _name_of(host), port or default


@cache
def own_names() -> frozenset[str]:
    """The names of this machine; its name alone and with its domain, as it knows them itself."""
    named = {"localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower().rstrip(".") for name in named if name)
