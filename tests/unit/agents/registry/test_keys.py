from __future__ import annotations

from pathlib import Path

import pytest

from shoal.agents.fakes import FakeClock
from shoal.agents.registry.keys import SqlKeys, sha256_hex
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import NotFound, UsageError


@pytest.fixture
def registry(database: str) -> SqlRegistry:
    return SqlRegistry(database)


@pytest.fixture
def keys(registry: SqlRegistry) -> SqlKeys:
    return SqlKeys(registry, clock=FakeClock(50.0))


def test_a_key_is_found_by_its_digest_and_its_text_is_stored_nowhere(keys: SqlKeys, tmp_path: Path) -> None:
    record, plaintext = keys.create("agent", ["chat"], rate_per_min=60, budget_usd=2.5)
    assert plaintext.startswith("sk-shoal-")
    assert len(plaintext) == len("sk-shoal-") + 43
    assert keys.find(sha256_hex(plaintext)) == record
    assert keys.find(sha256_hex(plaintext + "x")) is None
    assert (record.scopes, record.rate_per_min, record.budget_usd, record.created_at) == (
        ("chat",),
        60,
        2.5,
        50.0,
    )
    secret = plaintext.removeprefix("sk-shoal-").encode()
    assert all(secret not in file.read_bytes() for file in tmp_path.iterdir())


def test_no_two_keys_are_alike(keys: SqlKeys) -> None:
    made = [keys.create("x") for _ in range(5)]
    assert len({plaintext for _, plaintext in made}) == 5
    assert {record.id for record in keys.ls()} == {record.id for record, _ in made}


def test_a_revoked_key_is_refused_and_stays_listed(keys: SqlKeys) -> None:
    record, plaintext = keys.create("x")
    keys.create("y")
    assert keys.count() == 2
    keys.revoke(record.id)
    keys.revoke(record.id)
    assert keys.find(sha256_hex(plaintext)) is None
    assert keys.count() == 2, "a site that has asked for keys goes on asking"
    assert [k.revoked_at for k in keys.ls() if k.id == record.id] == [50.0]
    with pytest.raises(NotFound, match="shoal keys ls"):
        keys.revoke("key-nobody")


def test_spending_adds_up(keys: SqlKeys) -> None:
    record, plaintext = keys.create("x", budget_usd=1.0)
    keys.add_spend(record.id, 0.25)
    keys.add_spend(record.id, 0.5)
    keys.add_spend("nobody", 1)
    found = keys.find(sha256_hex(plaintext))
    assert found is not None
    assert found.spent_usd == 0.75


def test_keys_leave_the_epoch_alone(keys: SqlKeys, registry: SqlRegistry) -> None:
    keys.revoke(keys.create("x")[0].id)
    assert registry.epoch() == 0


@pytest.mark.parametrize(
    ("scopes", "rate", "budget"),
    [
        (["fly"], None, None),
        ([], None, None),
        (["chat"], 0, None),
        (["chat"], None, 0.0),
        (["chat"], None, float("nan")),
    ],
)
def test_senseless_limits_and_scopes_are_wrong_usage(
    keys: SqlKeys, scopes: list[str], rate: int | None, budget: float | None
) -> None:
    with pytest.raises(UsageError):
        keys.create("x", scopes, rate, budget)
    assert keys.ls() == []
