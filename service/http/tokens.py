"""Bearer tokens of an identity provider: JSON Web Tokens (RFC 7519) checked by the keys that it publishes (OpenID
Connect Discovery 1.0, section 4; RFC 7517). Signatures and claims are joserfc's affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from convscope.protocol.problems import ProblemError

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = structlog.get_logger(__name__)

PREFIX = "oidc."
"""Before the names of callers who come with a token; no caller of the key file has such a name."""
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a key pair only: what is verified with a public key cannot be made with it."""
LEEWAY_S = 30
"""So far the clocks of provider and service may be apart."""
KEEP_S = 3600.0
AGAIN_S = 10.0
"""Keys are read again after an hour, and for a key that is not known at most this often."""
PATIENCE_S = 5.0
_SCOPE = "convscope:"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,59}")


@dataclass(frozen=True)
class Bearer:
    """Who sends a token, and which scopes it says: None where it says nothing of this service."""

    caller: str
    scopes: frozenset[str] | None


class Tokens:
    """Tokens of one provider, for one audience.

    Args:
        issuer: its address, as tokens name it; its keys are found from there.
        audience: what a token must be meant for.
    """

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys: KeySet | None = None
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()

    @staticmethod
    def looks_like(text: str) -> bool:
        """Whether a bearer's text is a signed token by its form, rather than a key."""
        return text.startswith("eyJ") and text.count(".") == 2

    async def check(self, token: str) -> Bearer:
        """Who sends the token.

        Raises:
            ProblemError: `unauthenticated`; `identity-unavailable` where the provider's keys cannot be read.
        """
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            claims = jwt.decode(token, await self._fitting(token), algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError) as error:
            raise ProblemError("unauthenticated", f"The token is not accepted: {str(error)[:200]}.") from error
        return Bearer(_caller(str(claims["sub"])), _scopes(claims))

    async def _fitting(self, token: str) -> KeySet:
        """The provider's keys, read again where they are old, or where none of them is the token's."""
        from joserfc import jws

        kid = jws.extract_compact(token.encode("ascii", "replace")).headers().get("kid")
        known = self._keys is not None and (kid is None or any(key.kid == kid for key in self._keys.keys))
        now = time.monotonic()
        if not known or now - self._read_at > KEEP_S:
            async with self._reading:
                if time.monotonic() - self._tried_at > AGAIN_S:
                    self._tried_at = time.monotonic()
                    await self._read()
        if self._keys is None:
            raise ProblemError(
                "identity-unavailable", f"The keys of {self._issuer} cannot be read.", retry_after_s=AGAIN_S
            )
        return self._keys

    async def _read(self) -> None:
        """Read the keys; where that fails, those of before stay in force."""
        import httpx2
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            async with httpx2.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
                about = await _json(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                if about.get("issuer") != self._issuer:
                    raise ValueError(f"it calls itself {str(about.get('issuer'))[:200]}")
                published = await _json(client, str(about["jwks_uri"]))
            signing = [key for key in published["keys"] if key.get("use", "sig") == "sig"]
            self._keys = KeySet.import_key_set({"keys": signing})
            self._read_at = time.monotonic()
            log.info("identity_keys_read", issuer=self._issuer, keys=len(signing))
        except (httpx2.HTTPError, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("identity_keys_not_read", issuer=self._issuer, reason=f"{type(error).__name__}: {error}"[:300])


async def _json(client: Any, url: str) -> dict[str, Any]:
    answer = (await client.get(url)).raise_for_status().json()
    if not isinstance(answer, dict):
        raise ValueError(f"{url} is no JSON object")
    return answer


def _caller(subject: str) -> str:
    """The caller's name: the subject where it is plain, else its digest; texts of providers take any form."""
    plain = subject if _PLAIN.fullmatch(subject) else hashlib.sha256(subject.encode()).hexdigest()[:32]
    return PREFIX + plain


def _scopes(claims: dict[str, Any]) -> frozenset[str] | None:
    """What the token's claim `scope` (RFC 8693, section 4.2) says of this service: `convscope:read`, …"""
    given = claims.get("scope", "")
    said = {one.removeprefix(_SCOPE) for one in str(given).split() if one.startswith(_SCOPE)}
    return frozenset(said) or None
