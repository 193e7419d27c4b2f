"""Who is calling and what for: names, SHA-256 of keys, scopes and quotas in the operator's file, or tokens of an
identity provider; without either everyone is `anonymous`, and nobody has a quota.

The file is TOML:

    [callers.alice]
    key_sha256 = ["<64 hexadecimal digits>"]   # of the key's UTF-8 bytes; several while keys are changed
    unfinished_jobs = 20                       # instead of the setting caller_jobs
    scopes = ["read", "submit"]                # what it may do; these two unless given
    models = true                              # may bring networks, as the scope "models" says too
    enabled = true                             # false: known, and refused

It is read again when it has changed, without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from convscope.protocol.problems import ProblemError
from convscope.queue.records import NO_QUOTA
from service.http.tokens import PREFIX, Tokens

log = structlog.get_logger(__name__)

ANONYMOUS = "anonymous"
LOOK_EVERY_S = 1.0
"""A file that has changed is read at the first request that comes so long after the last look."""
Scope = Literal["read", "submit", "models"]
"""read: GET; submit: upload, compute, cancel, delete; models: bring networks and remove them."""
USUAL: frozenset[str] = frozenset({"read", "submit"})
_DOING = {"read": "read", "submit": "change anything", "models": "bring networks"}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key_sha256: list[str] | str
    unfinished_jobs: int | None = Field(None, ge=1)
    models: bool = False
    scopes: list[Scope] = ["read", "submit"]
    enabled: bool = True

    @property
    def granted(self) -> frozenset[str]:
        """All scopes."""
        return frozenset({*self.scopes, *(["models"] if self.models else [])})


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    callers: dict[str, _Entry]


@dataclass(frozen=True)
class Key:
    """One key of one caller."""

    caller: str
    digest: bytes
    enabled: bool
    scopes: frozenset[str] = USUAL


@dataclass(frozen=True)
class Identity:
    """Who calls, and what for."""

    caller: str
    scopes: frozenset[str]


_Stamp = tuple[int, int, int]
"""What changes with a file: its number, its size, when it was written."""


class Callers:
    """The callers that there are.

    Args:
        keys: theirs; None where nobody needs one.
        quotas: most unfinished jobs, of those who have a number of their own.
        tokens: of an identity provider, where callers may come with these.
        path: the file that says so.
        stamp: of the file when it was read.
    """

    def __init__(
        self,
        keys: list[Key] | None,
        quotas: dict[str, int] | None = None,
        tokens: Tokens | None = None,
        path: Path | None = None,
        stamp: _Stamp | None = None,
    ) -> None:
        self._keys = keys
        self._quotas = quotas or {}
        self._tokens = tokens
        self._path = path
        self._stamp = stamp
        self._look_at = 0.0
        self._trouble = ""

    @classmethod
    def read(cls, path: Path | None, tokens: Tokens | None = None) -> Callers:
        """The callers of a key file, and those who come with a token; without either, the one caller `anonymous`.

        Raises:
            ValueError: the file does not say what it should; the message says where.
        """
        if path is None:
            return cls(None if tokens is None else [], tokens=tokens)
        stamp = _stamp(path)
        try:
            entries = _KeyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).callers
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except ValueError as error:  # not TOML, or not UTF-8
            raise ValueError(f"{path} is not TOML: {error}") from error
        keys = []
        for name, entry in entries.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{path}: a caller's name has letters, digits, . _ -, not {name!r}")
            if name.startswith(PREFIX):
                raise ValueError(f"{path}: names with {PREFIX!r} are those of callers with tokens, not {name!r}")
            for digest in [entry.key_sha256] if isinstance(entry.key_sha256, str) else entry.key_sha256:
                if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
                    raise ValueError(f"{path}: key_sha256 of {name} is not a SHA-256 in hexadecimal")
                keys.append(Key(name, bytes.fromhex(digest), entry.enabled, entry.granted))
        quotas = {name: entry.unfinished_jobs for name, entry in entries.items() if entry.unfinished_jobs}
        return cls(keys, quotas, tokens, path, stamp)

    async def identify(self, authorization: str | None) -> Identity:
        """The caller whose key or token the Authorization header carries.

        Every known key is compared in constant time, so the time taken says nothing about any of them.

        Raises:
            ProblemError: `unauthenticated`; `forbidden` for a caller that was disabled; `identity-unavailable`.
        """
        self._read_again()
        if self._keys is None:
            return Identity(ANONYMOUS, USUAL)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ProblemError("unauthenticated", "This service needs a key: Authorization: Bearer KEY.")
        if self._tokens is not None and self._tokens.looks_like(key.strip()):
            bearer = await self._tokens.check(key.strip())
            return Identity(bearer.caller, USUAL if bearer.scopes is None else bearer.scopes)
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [known for known in self._keys if hmac.compare_digest(known.digest, digest)]
        if not found:
            raise ProblemError("unauthenticated", "This key is not known here.")
        if not found[0].enabled:
            raise ProblemError("forbidden", f"The caller {found[0].caller} is disabled.")
        return Identity(found[0].caller, found[0].scopes)

    def quota(self, caller: str) -> int | None:
        """Most unfinished jobs of that caller; None where the setting holds.

        Without a key file everybody is the one caller, and a quota would let one client's batch jobs lock out all
        others; then the depth of each lane is the bound.
        """
        return NO_QUOTA if self._keys is None else self._quotas.get(caller)

    def check(self, identity: Identity, scope: Scope) -> None:
        """See that a caller has a scope.

        Raises:
            ProblemError: `forbidden`, with what gives the right.
        """
        if scope in identity.scopes:
            return
        gives = f"the scope `{scope}`" + (", or `models = true`" if scope == "models" else "")
        detail = f"{identity.caller} may not {_DOING[scope]}; {gives} in the operator's key file gives the right."
        if identity.caller.startswith(PREFIX):
            detail = f"{identity.caller} may not {_DOING[scope]}; a token whose scope has `convscope:{scope}` may."
        if self._keys is None:
            detail = (
                "Only callers whose entry in the operator's key file says `models = true` may bring networks, and this "
                "service has no keys; `convscope models add` adds one to the operator's catalogue."
            )
        raise ProblemError("forbidden", detail, scope=scope)

    def _read_again(self) -> None:
        """Read the file where it has changed; one that cannot be used leaves everything as it was."""
        now = time.monotonic()
        if self._path is None or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        try:
            if _stamp(self._path) == self._stamp:
                return
            fresh = Callers.read(self._path, self._tokens)
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("keys_not_read", reason=self._trouble)
            return
        self._keys, self._quotas = fresh._keys, fresh._quotas
        self._stamp, self._trouble = fresh._stamp, ""
        log.info("keys_read", keys=len(fresh._keys or ()))


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
