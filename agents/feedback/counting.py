"""Comparisons are counted exactly once, whoever dies on the way.

A sender numbers its events and sends a batch again until it is told that the batch is kept. Counts and the sender's number are written in
one transaction, so what comes a second time is known. Owns what is seen and not yet kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from shoal.agents.feedback.feedback_state import Event
from shoal.agents.feedback.rollout import CountComparison


class CountingRegistry(Protocol):
    def add_comparisons(
        self, counts: Mapping[tuple[str, str], tuple[int, int]], *, senders: Mapping[str, int]
    ) -> None:
        """(version key, stage) -> (compared, agreed) to add; sender -> its highest number among them. One change."""
        ...

    def counted(self, sender: str) -> int:
        """The highest number of a sender that was counted; 0 for none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Events of one sender.

    Attributes:
        sender: empty where nobody sends again: each event is then new.
        first: the number of the first event, from 1; the others follow without a gap.
        kept: called once all of them are durable, from the deciding thread.
    """

    events: tuple[Event, ...]
    sender: str = ""
    first: int = 1
    kept: Callable[[], object] = lambda: None


class Counting:
    """Used by one thread."""

    def __init__(self, registry: CountingRegistry) -> None:
        self._registry = registry
        #: sender -> the highest number that was seen, durable or not
        self._seen: dict[str, int] = {}
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}
        self._senders: dict[str, int] = {}
        self._waiting: list[Callable[[], object]] = []

    def take(self, batch: Batch) -> Iterator[Event]:
        """Those events of a batch that were not seen before."""
        if batch.sender and batch.sender not in self._seen:
            self._seen[batch.sender] = self._registry.counted(batch.sender)
        self._waiting.append(batch.kept)
        if not batch.sender:
            yield from batch.events
            return
        for number, event in enumerate(batch.events, start=batch.first):
            if number > self._seen[batch.sender]:
                self._seen[batch.sender] = self._senders[batch.sender] = number
                yield event

    def count(self, command: CountComparison) -> None:
        """Remember to add one comparison to the durable counts."""
        place = (command.version_key, command.stage)
        compared, agreed = self._counts.get(place, (0, 0))
        self._counts[place] = (compared + 1, agreed + int(command.agrees))

    def keep(self) -> int:
        """Make durable what was taken; returns how many comparisons that were. An error leaves all to be tried again."""
        if self._counts or self._senders:
            self._registry.add_comparisons(self._counts, senders=self._senders)
        compared = sum(count for count, _ in self._counts.values())
        kept, self._waiting = self._waiting, []
        self._counts, self._senders = {}, {}
        for tell in kept:
            tell()
        return compared
