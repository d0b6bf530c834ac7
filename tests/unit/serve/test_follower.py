from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.agents.routing.snapshot import Snapshot
from shoal.serve.follower import Follower


class Actor:
    """A router actor: gives the update that it holds to whoever does not know it; raises while it is away."""

    def __init__(self) -> None:
        self.update: dict[str, Any] | None = None
        self.away = False
        self.asked: list[str] = []

    async def fetch(self, token: str, wait_s: float) -> Mapping[str, Any] | None:
        self.asked.append(token)
        if self.away:
            raise ConnectionError("actor died")
        if self.update is not None and self.update["token"] != token:
            return self.update
        await asyncio.sleep(0.02)
        return None

    def hold(self, epoch: int, where: Mapping[str, str] | None = None) -> None:
        self.update = {
            "snapshot": Snapshot(epoch=epoch).to_dict(),
            "where": dict(where or {}),
            "places": {"a": {"node": "edge-1", "tier": "edge"}},
            "token": f"e{epoch}",
        }


async def eventually(follower: Follower, epoch: int) -> None:
    for _ in range(200):
        if follower.router is not None and follower.router.snapshot.epoch == epoch:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(follower.trouble)


async def test_a_new_epoch_is_taken_as_soon_as_the_actor_has_it() -> None:
    actor = Actor()
    expected: list[Iterable[str]] = []
    follower = Follower(actor.fetch, expected.append)
    actor.hold(1, {"t@1": "shoal-host"})
    follower.start()
    await eventually(follower, 1)
    assert follower.where == {"t@1": "shoal-host"}
    assert expected == [{"shoal-host"}]
    actor.hold(2)
    await eventually(follower, 2)
    assert follower.where == {}
    await follower.close()


async def test_while_the_actor_is_away_the_last_epoch_stays_and_then_it_is_asked_again() -> None:
    actor = Actor()
    actor.hold(1)
    follower = Follower(actor.fetch)
    follower.start()
    await eventually(follower, 1)
    actor.away = True
    await asyncio.sleep(0.1)
    assert follower.router is not None and follower.router.snapshot.epoch == 1
    assert "does not answer" in follower.trouble
    actor.hold(2)
    actor.away = False
    await eventually(follower, 2)
    assert follower.trouble == ""
    await follower.close()


async def test_an_older_epoch_never_replaces_a_newer_one() -> None:
    follower = Follower(Actor().fetch)
    follower.take(Snapshot(epoch=5), {"t@1": "a"}, {})
    follower.take(Snapshot(epoch=4), {}, {})
    assert follower.router is not None and follower.router.snapshot.epoch == 5
    assert follower.where == {"t@1": "a"}


async def test_a_change_of_place_alone_keeps_the_router_that_is_at_hand() -> None:
    follower = Follower(Actor().fetch)
    follower.take(Snapshot(epoch=5), {}, {})
    router = follower.router
    follower.take(Snapshot(epoch=5), {"t@1": "a"}, {})
    assert follower.router is router
    assert follower.where == {"t@1": "a"}
