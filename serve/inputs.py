"""How sure versions are of what comes in, gathered into batches for the feedback actor. No text of a call leaves the gateway by it.

Owns what waits to be sent: in one event loop, a few seconds at most. What waits when the process is killed is not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.contract.drift import bin_of
from shoal.agents.ports import Clock
from shoal.serve.call import Call
from shoal.serve.ports import InputsSeen, Observe

#: calls of a batch, at most, and seconds that one waits
_MOST_CALLS = 50
_WAIT_S = 5.0


@dataclass(slots=True)
class _Batch:
    key: str
    since: float
    bins: list[int] = field(default_factory=list)
    given: int = 0
    calls: int = 0


class Inputs:
    """Hears of every call for which a version was asked.

    Args:
        start: begins work beside the calls; False where there is no room.
    """

    def __init__(self, observe: Observe, clock: Clock, start: Callable[[Callable[[], Any]], bool]) -> None:
        self._observe = observe
        self._clock = clock
        self._start = start
        self._batches: dict[str, _Batch] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note(self, call: Call, *, given: bool) -> None:
        """A call was answered for which a version was asked first. `given`: by that version."""
        decision, said = call.decision, call.said
        if decision is None or decision.performer is None or said is None:
            return
        if decision.pinned:
            return  # whoever names a specialist sends it what they like: that is no sample of the task's calls
        performer = decision.performer
        batch = self._batches.setdefault(performer.key, _Batch(key=str(call.id), since=call.arrived_at))
        batch.calls += 1
        batch.bins.append(bin_of(said.confidence if said.given else 0.0))
        batch.given += given and said.confidence >= performer.threshold
        if batch.calls >= _MOST_CALLS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WAIT_S, self.flush)

    def flush(self) -> None:
        """Send what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batches:
            events = self._take()
            if self._start(lambda: self._send(events)):
                self._batches = {}
            else:
                # no room beside the calls now
                self._timer = asyncio.get_running_loop().call_later(_WAIT_S, self.flush)

    async def close(self) -> None:
        """Send what waits, now."""
        if self._timer is not None:
            self._timer.cancel()
        events, self._batches = self._take(), {}
        await self._send(events)

    def _take(self) -> list[InputsSeen]:
        now = self._clock.now()
        return [
            InputsSeen(
                version_key=key,
                bins=tuple(batch.bins),
                given=batch.given,
                key=batch.key,
                since=batch.since,
                at=now,
            )
            for key, batch in self._batches.items()
        ]

    async def _send(self, events: list[InputsSeen]) -> None:
        for event in events:
            await self._observe(event)
