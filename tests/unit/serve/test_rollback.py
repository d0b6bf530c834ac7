"""From `shoal specialists rollback` to the gateway's answers: the registry's change, the router's round, the next epoch, each call after it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.agents.fakes import FakeClock, FunctionGeneralist
from shoal.agents.feedback.governance import rollback_task
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_loop import RouterLoop, Update
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId
from shoal.serve.call import LOCAL_CALLER
from shoal.serve.fakes import FunctionSpecialists, ListObserver, ListRecord
from shoal.serve.follower import Follower
from shoal.serve.service import ChatService

#: seconds between the router actor's rounds, and between its looks for a waiting gateway; see `router_actor.py`
TICK_S, LOOK_S = 0.2, 0.02
BODY: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Sort the ticket: billing or shipping. Answer with one word."},
        {"role": "user", "content": "My invoice is wrong, what now?"},
    ],
}


class Deployed:
    """Everything is loaded, at once."""

    async def ensure(self, versions: Sequence[Version]) -> None:
        return None

    def addresses(self) -> Mapping[str, str]:
        return {}

    def places(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    async def loaded(self) -> frozenset[str]:
        return frozenset()

    async def failures(self) -> Mapping[str, str]:
        return {}


class Site:
    """A registry, the router's loop, one gateway, and a clock that both loops are timed by."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.registry = SqlRegistry(folder / "shoal.db", clock=self.clock)
        self.task = self._task()
        self.registry.put_tasks([self.task])
        for number, state in ((1, VersionState.RETIRED), (2, VersionState.SERVING)):
            self.registry.add_version(self._version(number, state))
        self.updates: list[Update] = []
        self.loop = RouterLoop(
            registry=self.registry,
            deployer=Deployed(),
            canary_share=0.1,
            clock=self.clock,
            on_update=self.updates.append,
        )
        self.follower = Follower(self._fetch)
        answer = SpecialistAnswer(content="billing", confidence=0.9)
        self.specialists = FunctionSpecialists({v.key: lambda _: answer for v in self.registry.versions()})
        self.service = ChatService(
            router=lambda: self.follower.router,
            generalist=FunctionGeneralist(lambda request: "billing"),
            specialists=self.specialists,
            record=ListRecord(),
            observe=ListObserver(),
            clock=self.clock,
            ids=iter(map(str, range(10_000))).__next__,
            node="n",
            tier="local",
            chance=lambda: 1.0,
        )

    def _task(self) -> Task:
        traces = [
            Trace(
                id=TraceId(f"c{n}"),
                request={
                    **BODY,
                    "messages": [
                        BODY["messages"][0],
                        {"role": "user", "content": f"My invoice {n} is wrong, what now?"},
                    ],
                },
                response={"choices": [{"message": {"role": "assistant", "content": "billing"}}]},
                timestamp=float(n),
            )
            for n in range(40)
        ]
        [found] = find_tasks(traces, known=(), seed=0, now=0.0).tasks
        assert found.output_kind is OutputKind.LABEL
        return found

    def _version(self, number: int, state: VersionState) -> Version:
        return Version(
            task_id=TaskId(self.task.id),
            number=number,
            kind="classifier",
            state=state,
            folder=f"t/{number}",
            sha256=str(number) * 64,
            threshold=0.5,
            alpha=0.05,
            delta=0.05,
        )

    async def _fetch(self, token: str, wait_s: float) -> Mapping[str, Any] | None:
        raise AssertionError("the gateway's question is asked by hand here")

    def tick(self) -> None:
        """A round of the router's, and what a waiting gateway hears of it."""
        self.clock.advance(TICK_S)
        self.loop.tick()
        self.clock.advance(LOOK_S)
        if self.updates:
            self.follower.take_update(self.updates.pop().to_dict())

    async def served_by(self) -> str:
        return (await self.service.chat(ChatRequest(body=BODY), LOCAL_CALLER)).served_by


async def test_within_a_second_of_a_rollback_no_call_is_answered_by_the_version(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tick()
    assert await site.served_by() == f"specialist/{site.task.name}@2"
    router = site.follower.router
    began = site.clock.monotonic()
    rollback_task(site.registry, site.task)
    site.tick()
    assert site.clock.monotonic() - began < 1.0
    asked = len(site.specialists.asked)
    served = {await site.served_by() for _ in range(50)}
    assert served == {f"specialist/{site.task.name}@1"}
    assert {key for key, _ in site.specialists.asked[asked:]} == {f"{site.task.id}@1"}
    # what recognises tasks was not made anew for it
    assert site.follower.router is not router
    assert router is not None and site.follower.router is not None
    assert site.follower.router._matcher is router._matcher


async def test_between_the_two_changes_of_a_rollback_somebody_serves(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.tick()
    site.registry.set_state(f"{site.task.id}@1", VersionState.SERVING, reason="rollback")
    site.tick()
    assert await site.served_by() == f"specialist/{site.task.name}@2"
    site.registry.set_state(f"{site.task.id}@2", VersionState.RETIRED, reason="rollback")
    site.tick()
    assert await site.served_by() == f"specialist/{site.task.name}@1"


async def test_calls_under_way_over_a_rollback_are_answered_by_nobody_that_was_taken_back(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.tick()
    site.specialists.delay_s = 0.05
    asking = [asyncio.create_task(site.served_by()) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert len(site.specialists.asked) == 20
    rollback_task(site.registry, site.task)
    site.tick()
    assert set(await asyncio.gather(*asking)) == {"generalist/fake-generalist"}
