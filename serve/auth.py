"""Who may call: API keys with scopes, rate and budget, and callers on this very machine where no key is asked for.

Owns the decision for one gateway replica. The keys' table is handed in (`shoal.agents.registry.keys.SqlKeys`); HTTP and gRPC
hand in what they know of the caller.

When is a key demanded? With `auth.required: always`; where the site listens beyond loopback; and as soon as a key exists. Otherwise
only callers are let in whose address is one of this machine's own: Ray binds a replica's port to the machine's address, not to
127.0.0.1, so that others can reach it. A browser on this machine is no caller of its owner's: a web page's `Origin` is refused.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from shoal.agents.ports import Clock
from shoal.agents.registry.keys import PREFIX, KeyRecord, sha256_hex
from shoal.errors import PermissionDenied, RateLimited, ShoalError, Unauthenticated
from shoal.serve.call import LOCAL_CALLER, Caller, Scope
from shoal.serve.limits import TokenBucket

log = logging.getLogger("shoal.serve")

#: a revoked key is refused after at most this long
CACHE_S = 1.0
#: what is known of a key is used for so long while the store does not answer
STALE_S = 60.0
#: the machine's addresses are read again after this long
_ADDRESSES_S = 10.0
_CACHED_KEYS = 10_000
_KEY_CHARS = 256
_FLUSH_S = 1.0


class KeyRing(Protocol):
    """The keys of a site. Blocking: called off the event loop."""

    def find(self, digest: str, /) -> KeyRecord | None:
        """The good key whose text has this SHA-256 (hexadecimal)."""
        ...

    def get(self, key_id: str, /) -> KeyRecord | None:
        """The good key of this id."""
        ...

    def count(self) -> int:
        """How many keys are good."""
        ...

    def add_spend(self, key_id: str, usd: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    record: KeyRecord | None
    at: float


def own_addresses() -> frozenset[str]:
    """The addresses of this machine's interfaces, without zones."""
    found = psutil.net_if_addrs().values()
    return frozenset(a.address.partition("%")[0] for addresses in found for a in addresses)


def is_own(peer: str | None, own: frozenset[str]) -> bool:
    """Whether a peer's address is loopback or one of this machine's. An unknown peer is not."""
    if not peer:
        return False
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or str(address) in own


def listens_beyond_loopback(host: str) -> bool:
    """Whether a site that listens on `host` can be reached from other machines. A name other than localhost counts as such."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


class Authenticator:
    """Decides for each call; per replica, so a rate of N a minute is N for each replica.

    Args:
        keys: None where there is no table of keys (tests, embedded use): then only this machine may call.
        always: `auth.required: always`.
        beyond_loopback: the site listens on more than loopback.
    """

    def __init__(
        self,
        keys: KeyRing | None,
        *,
        clock: Clock,
        always: bool = False,
        beyond_loopback: bool = False,
        addresses: Callable[[], frozenset[str]] = own_addresses,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._always = always or beyond_loopback
        self._read_addresses = addresses
        self._addresses: tuple[frozenset[str], float] | None = None
        self._seen: dict[str, _Seen] = {}
        self._count: tuple[int, float] | None = None
        self._buckets: dict[str, TokenBucket] = {}
        #: USD that the table does not know of yet, by key
        self._unflushed: dict[str, float] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def authenticate(
        self, authorization: str | None, *, peer: str | None, scope: Scope, origin: str | None = None
    ) -> Caller:
        """Let a call in, and count it against its key's rate.

        Args:
            authorization: the header, `Bearer sk-shoal-...`.
            peer: the address that the connection comes from.
            origin: the header that browsers send.

        Raises:
            Unauthenticated: a key is demanded and there is none, or it is not a good one.
            PermissionDenied: the key's scopes do not cover the call.
            RateLimited: over the key's rate or budget.
        """
        record = await self._find(_bearer(authorization))
        if record is None:
            return await self._without_key(peer, origin, sent_one=bool(authorization))
        caller = Caller(id=record.id, scopes=frozenset(record.scopes))
        if scope not in caller.scopes and "admin" not in caller.scopes:
            raise PermissionDenied(
                f"The key {record.name!r} has the scopes {', '.join(record.scopes)}; this call needs {scope}.",
                remedy=f"Make one: shoal keys create --scope {scope}.",
            )
        self._limit(record)
        return caller

    async def check(self, key_id: str) -> None:
        """Whether a key that was let in before is still good and has money left; its rate is not counted.

        Raises:
            Unauthenticated: it was revoked.
            RateLimited: it has spent its budget.
        """
        if self._keys is None:
            return
        record = await asyncio.to_thread(self._keys.get, key_id)
        if record is None:
            raise Unauthenticated(
                f"The key {key_id} was revoked.", remedy="Start the run again with another key."
            )
        self._limit_money(record)

    def charge(self, key_id: str, usd: float) -> None:
        """Count money against a key's budget; written to the table within a second."""
        if usd <= 0 or self._keys is None or key_id == LOCAL_CALLER.id:
            return
        self._unflushed[key_id] = self._unflushed.get(key_id, 0.0) + usd
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_soon())

    async def flush(self) -> None:
        """Write what was charged to the table now."""
        keys, due = self._keys, dict(self._unflushed)
        if keys is None:
            return
        for key_id, usd in due.items():
            await asyncio.to_thread(keys.add_spend, key_id, usd)
            self._unflushed[key_id] -= usd
            if self._unflushed[key_id] <= 0:
                del self._unflushed[key_id]

    async def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        await self.flush()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _flush_soon(self) -> None:
        while self._unflushed:
            await asyncio.sleep(_FLUSH_S)
            try:
                await self.flush()
            except ShoalError as error:
                log.warning("what keys have spent is not written yet: %s", error)

    async def _without_key(self, peer: str | None, origin: str | None, *, sent_one: bool) -> Caller:
        if self._always or await self._any_key():
            raise Unauthenticated(
                "The API key is not known, or was revoked." if sent_one else "This site asks for an API key.",
                remedy="Send `Authorization: Bearer sk-shoal-...`; `shoal keys create` makes one.",
            )
        if not is_own(peer, self._own()):
            raise Unauthenticated(
                f"Without a key only this very machine may call, not {peer or 'an unknown address'}.",
                remedy="Make a key with `shoal keys create`, and start the site with --host.",
            )
        if origin is not None and listens_beyond_loopback(urlsplit(origin).hostname or ""):
            raise Unauthenticated(
                f"A web page of {origin[:100]} may not call this site without a key.",
                remedy="Make a key with `shoal keys create`.",
            )
        return LOCAL_CALLER

    def _own(self) -> frozenset[str]:
        now = self._clock.monotonic()
        if self._addresses is None or now - self._addresses[1] > _ADDRESSES_S:
            self._addresses = (self._read_addresses(), now)
        return self._addresses[0]

    async def _find(self, key: str | None) -> KeyRecord | None:
        """The record of a good key, at most `CACHE_S` old; `STALE_S` where the table does not answer."""
        if key is None or self._keys is None:
            return None
        digest = sha256_hex(key)
        now = self._clock.monotonic()
        seen = self._seen.get(digest)
        if seen is None or now - seen.at > CACHE_S:
            try:
                found = await asyncio.to_thread(self._keys.find, digest)
            except ShoalError as error:
                if seen is None or now - seen.at > STALE_S:
                    raise
                log.warning(
                    "the table of keys does not answer, a key seen %.0f s ago is used: %s",
                    now - seen.at,
                    error,
                )
            else:
                if len(self._seen) >= _CACHED_KEYS:
                    self._seen.clear()
                seen = self._seen[digest] = _Seen(found, now)
        if seen.record is None or not hmac.compare_digest(seen.record.sha256, digest):
            return None
        return seen.record

    async def _any_key(self) -> bool:
        if self._keys is None:
            return False
        now = self._clock.monotonic()
        if self._count is None or now - self._count[1] > CACHE_S:
            try:
                self._count = (await asyncio.to_thread(self._keys.count), now)
            except ShoalError:
                if self._count is None or now - self._count[1] > STALE_S:
                    raise
        return self._count[0] > 0

    def _limit_money(self, record: KeyRecord) -> None:
        if record.budget_usd is not None:
            spent = record.spent_usd + self._unflushed.get(record.id, 0.0)
            if spent >= record.budget_usd:
                raise RateLimited(
                    f"The key {record.name!r} has spent {spent:.4f} USD of its {record.budget_usd:g}.",
                    remedy="Ask the site's owner for a key with a larger budget.",
                    param="budget_usd",
                )

    def _limit(self, record: KeyRecord) -> None:
        self._limit_money(record)
        if record.rate_per_min is None:
            return
        now = self._clock.monotonic()
        bucket = self._buckets.get(record.id)
        if bucket is None or bucket.rate_per_min != record.rate_per_min:
            bucket = self._buckets[record.id] = TokenBucket.full(record.rate_per_min, now)
        if (wait_s := bucket.take(now)) > 0:
            error = RateLimited(
                f"The key {record.name!r} may make {record.rate_per_min} calls a minute.",
                remedy=f"Try again in {wait_s:.1f} s.",
                param="rate_per_min",
            )
            error.retry_after_s = wait_s
            raise error


def _bearer(authorization: str | None) -> str | None:
    """The key in an `Authorization` header, if it looks like one of ours."""
    if not authorization:
        return None
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key.startswith(PREFIX) or len(key) > _KEY_CHARS:
        return None
    return key
