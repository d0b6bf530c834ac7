from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock
from shoal.agents.registry.keys import KeyRecord, sha256_hex
from shoal.errors import PermissionDenied, RateLimited, SiteError, Unauthenticated
from shoal.serve.auth import CACHE_S, STALE_S, Authenticator, is_own, listens_beyond_loopback, own_addresses
from shoal.serve.limits import TokenBucket

KEY = "sk-shoal-abc"
BEARER = f"Bearer {KEY}"


class Keys:
    """A table of keys in memory."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.sha256: record for record in records}
        self.reads = 0
        self.broken = False

    def find(self, digest: str, /) -> KeyRecord | None:
        self._read()
        return self.records.get(digest)

    def count(self) -> int:
        self._read()
        return len(self.records)

    def add_spend(self, key_id: str, usd: float, /) -> None:
        self._read()
        for digest, record in self.records.items():
            if record.id == key_id:
                self.records[digest] = replace(record, spent_usd=record.spent_usd + usd)

    def _read(self) -> None:
        self.reads += 1
        if self.broken:
            raise SiteError("The database is away.")


def record(*scopes: str, key: str = KEY, rate: int | None = None, budget: float | None = None) -> KeyRecord:
    return KeyRecord(
        id="key-1",
        name="ann",
        sha256=sha256_hex(key),
        scopes=scopes or ("chat",),
        rate_per_min=rate,
        budget_usd=budget,
        spent_usd=0.0,
        created_at=0.0,
        revoked_at=None,
    )


def make(keys: Keys | None, clock: FakeClock | None = None, **options: Any) -> Authenticator:
    own = frozenset({"10.0.0.5", "fe80::1"})
    return Authenticator(keys, clock=clock or FakeClock(), addresses=lambda: own, **options)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.5", "::ffff:10.0.0.5", "fe80::1%eth0"])
async def test_without_any_key_callers_on_this_machine_are_let_in(peer: str) -> None:
    for sent in (None, "Bearer unused", BEARER):
        caller = await make(Keys()).authenticate(sent, peer=peer, scope="admin")
        assert caller.id == "local"


@pytest.mark.parametrize("peer", ["10.0.0.6", "8.8.8.8", None, "", "unix:", "127.0.0.1.evil"])
async def test_without_any_key_everybody_else_is_refused(peer: str | None) -> None:
    with pytest.raises(Unauthenticated):
        await make(Keys()).authenticate(None, peer=peer, scope="chat")
    with pytest.raises(Unauthenticated):
        await make(None).authenticate(None, peer=peer, scope="chat")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://evil.localdomain:8700"])
async def test_a_web_page_may_not_call_without_a_key(origin: str) -> None:
    with pytest.raises(Unauthenticated):
        await make(Keys()).authenticate(None, peer="127.0.0.1", scope="chat", origin=origin)
    local = await make(Keys()).authenticate(
        None, peer="127.0.0.1", scope="chat", origin="http://localhost:3000"
    )
    assert local.id == "local"


@pytest.mark.parametrize("options", [{"always": True}, {"beyond_loopback": True}])
async def test_a_site_that_demands_keys_refuses_this_machine_too(options: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await make(Keys(), **options).authenticate(None, peer="127.0.0.1", scope="chat")


async def test_once_a_key_exists_it_is_demanded_and_good_from_anywhere() -> None:
    auth = make(Keys(record("chat")))
    for sent in (None, "Bearer sk-shoal-other", "Bearer ", f"Basic {KEY}", "sk-shoal-abc"):
        with pytest.raises(Unauthenticated):
            await auth.authenticate(sent, peer="127.0.0.1", scope="chat")
    caller = await auth.authenticate(BEARER, peer="8.8.8.8", scope="chat", origin="https://app.example")
    assert (caller.id, caller.scopes) == ("key-1", frozenset({"chat"}))


async def test_scopes_are_kept_and_admin_has_them_all() -> None:
    with pytest.raises(PermissionDenied, match="feedback"):
        await make(Keys(record("chat"))).authenticate(BEARER, peer=None, scope="feedback")
    assert await make(Keys(record("admin"))).authenticate(BEARER, peer=None, scope="feedback")


async def test_a_revoked_key_is_refused_within_a_second() -> None:
    keys, clock = Keys(record("chat"), record("chat", key="sk-shoal-other")), FakeClock()
    auth = make(keys, clock)
    for _ in range(10):
        await auth.authenticate(BEARER, peer=None, scope="chat")
    assert keys.reads == 1
    del keys.records[sha256_hex(KEY)]
    clock.advance(CACHE_S + 0.01)
    with pytest.raises(Unauthenticated):
        await auth.authenticate(BEARER, peer="127.0.0.1", scope="chat")


async def test_a_table_that_is_away_does_not_stop_keys_that_were_just_seen() -> None:
    keys, clock = Keys(record("chat")), FakeClock()
    auth = make(keys, clock)
    await auth.authenticate(BEARER, peer=None, scope="chat")
    keys.broken = True
    clock.advance(STALE_S - 1)
    assert (await auth.authenticate(BEARER, peer=None, scope="chat")).id == "key-1"
    clock.advance(2)
    with pytest.raises(SiteError):
        await auth.authenticate(BEARER, peer=None, scope="chat")


async def test_a_key_may_call_so_often_a_minute_and_no_more() -> None:
    clock = FakeClock()
    auth = make(Keys(record("chat", rate=3)), clock)
    for _ in range(3):
        await auth.authenticate(BEARER, peer=None, scope="chat")
    with pytest.raises(RateLimited) as caught:
        await auth.authenticate(BEARER, peer=None, scope="chat")
    assert caught.value.retry_after_s == pytest.approx(20)
    clock.advance(20.01)
    await auth.authenticate(BEARER, peer=None, scope="chat")
    with pytest.raises(RateLimited):
        await auth.authenticate(BEARER, peer=None, scope="chat")


async def test_a_budget_counts_at_once_and_is_written_down() -> None:
    keys, clock = Keys(record("chat", budget=1.0)), FakeClock()
    auth = make(keys, clock)
    await auth.authenticate(BEARER, peer=None, scope="chat")
    auth.charge("key-1", 0.6)
    auth.charge("key-1", 0.6)
    auth.charge("local", 5.0)
    with pytest.raises(RateLimited, match=r"1\.2000 USD of its 1"):
        await auth.authenticate(BEARER, peer=None, scope="chat")
    await auth.close()
    assert keys.records[sha256_hex(KEY)].spent_usd == pytest.approx(1.2)
    clock.advance(2)
    with pytest.raises(RateLimited, match=r"1\.2000 USD"):
        await auth.authenticate(BEARER, peer=None, scope="chat")


def test_a_bucket_refills_evenly_and_never_over_its_rim() -> None:
    bucket = TokenBucket.full(60, now=0.0)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    bucket.take(10_000.0)
    assert bucket.tokens == 59


@pytest.mark.parametrize(
    ("host", "beyond"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("gpu-box", True)],
)
def test_what_counts_as_listening_beyond_loopback(host: str, beyond: bool) -> None:
    assert listens_beyond_loopback(host) is beyond


def test_this_machines_own_addresses_are_its_own() -> None:
    assert all(is_own(a, own_addresses()) for a in own_addresses() if a.count(".") == 3)
