"""Invocation tokens: each reads and cancels one invocation, and the ledger holds only its hash.

A token has two halves. The first is derived from the ledger's secret and the invocation's id: it distinguishes a token
of this ledger from any other text without a query, even after the invocation was deleted. The second is derived from a
seed that the ledger never holds, the client's idempotency key or random bytes. So a backup of the ledger, with its
secret, opens nothing, while a repeated start gets the same token from any replica.

Processes before schema version 4 know the first half only, and give it as the whole token.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace

from .records import NewInvocation, Record

_HALF = 43  # characters of a SHA-256 digest in base64


@dataclass(frozen=True)
class Tokens:
    """The tokens of one ledger, made with its secret."""

    secret: bytes

    def protect(self, new: NewInvocation, seed: str) -> NewInvocation:
        """Return the invocation with the hash of the token that the seed makes."""
        return replace(new, token_hash=_hashed(self._make(new.id, seed)))

    def given(self, record: Record, seed: str) -> str:
        """Return the token of an accepted invocation, for a start with its seed."""
        if record.token_hash is None:
            return self.derived(record.id)
        return self._make(record.id, seed)

    def derived(self, invocation_id: str) -> str:
        """Return the first half: before schema version 4, the whole token."""
        return self._digest(invocation_id)

    def is_of_ledger(self, token: str, invocation_id: str) -> bool:
        """Return True if this ledger may have issued the token, even for an invocation that was deleted."""
        return same(token[:_HALF], self.derived(invocation_id))

    def opens(self, token: str, record: Record) -> bool:
        """Return True if the token is the invocation's."""
        if record.token_hash is None:
            return same(token, self.derived(record.id))
        return same(_hashed(token), record.token_hash)

    def _make(self, invocation_id: str, seed: str) -> str:
        return self.derived(invocation_id) + self._digest(f"{invocation_id}\n{seed}")

    def _digest(self, text: str) -> str:
        digest = hmac.digest(self.secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _hashed(token: str) -> str:
    """Return the hash that the ledger holds. It needs no salt: half of a token is random."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def same(given: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())
