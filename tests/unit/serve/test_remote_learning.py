"""What a gateway sends to the feedback actor: each comparison until it is kept, in order, and never another under the same number."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from shoal.agents.registry.store import SqlRegistry
from shoal.errors import SiteError
from shoal.serve import remote_learning
from shoal.serve.ports import ComparisonMade, FeedbackGiven
from shoal.serve.remote_learning import RemoteLearning
from shoal.serve.site_service import Actors


def made(number: int) -> ComparisonMade:
    return ComparisonMade(
        task_id="t",
        task_name="sort",
        version_key="t@1",
        source="shadow",
        judged=True,
        agrees=True,
        confidence=0.9,
        accepted=True,
        trace_id=f"c{number}",
        at=1.0,
    )


class Method:
    """A method of an actor, as Ray's handles have them."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def options(self, **options: Any) -> Method:
        return self

    async def remote(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class Actor:
    """A feedback actor that counts as the real one does, and dies as it is told: before, or after what it got is kept."""

    def __init__(self, *deaths: str) -> None:
        self.deaths = list(deaths)
        self.kept: dict[int, str] = {}
        self.got: list[tuple[int, int]] = []
        self.nudged = 0
        self.observe = Method(self._observe)
        self.nudge = Method(self._nudge)

    def _observe(self, sender: str, first: int, comparisons: Sequence[Mapping[str, Any]]) -> bool:
        self.got.append((first, len(comparisons)))
        death = self.deaths.pop(0) if self.deaths else ""
        if death == "before":
            raise ValueError("there is no actor of this name")
        if death == "full":
            return False
        for number, said in enumerate(comparisons, start=first):
            assert self.kept.setdefault(number, said["trace_id"]) == said["trace_id"]
        if death == "after":
            raise TimeoutError
        return True

    def _nudge(self) -> None:
        self.nudged += 1


class Found:
    """Implements what `RemoteLearning` needs of `Actors`."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.forgotten = 0

    async def get(self, name: str) -> Actor:
        return self.actor

    def forget(self, name: str) -> None:
        self.forgotten += 1


def learning(actor: Actor) -> tuple[RemoteLearning, Found]:
    found = Found(actor)
    # no registry: comparisons are not written from here
    return RemoteLearning(cast(Actors, found), cast(SqlRegistry, None), sender="gateway-1"), found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_learning, "_AGAIN_S", 0.001)


async def test_every_comparison_is_kept_once_and_in_order_whenever_the_actor_dies() -> None:
    actor = Actor("before", "after", "full", "after", "")
    remote, found = learning(actor)
    for number in range(1, 6):
        await remote.observe(made(number))
        await asyncio.sleep(0.002)
    await remote.close()
    assert actor.kept == {number: f"c{number}" for number in range(1, 6)}
    assert found.forgotten >= 2
    firsts = [first for first, _ in actor.got]
    assert firsts == sorted(firsts), "a batch went before an earlier one was kept"


async def test_nobody_waits_for_an_actor_that_is_away_and_over_the_bound_they_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_learning, "_MOST_WAITING", 3)
    remote, _ = learning(Actor(*["before"] * 10_000))
    async with asyncio.timeout(1):
        for number in range(3):
            await remote.observe(made(number))
        with pytest.raises(SiteError, match="3 comparisons wait"):
            await remote.observe(made(4))
    monkeypatch.setattr(remote_learning, "_OBSERVE_DEADLINE_S", 0.01)
    await remote.close()


async def test_news_of_feedback_goes_at_once_and_is_not_numbered() -> None:
    actor = Actor()
    remote, _ = learning(actor)
    said = FeedbackGiven(trace_id="c1", client_id="", score=1.0, correction=None, comment="", at=1.0)
    await remote.observe(said)
    assert (actor.nudged, actor.got) == (1, [])
