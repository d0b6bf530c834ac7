"""Comparisons are counted exactly once, whoever dies on the way.

A sender numbers its events and sends a batch again until it is told that the batch is kept. Counts and the sender's number are written in
one transaction, so what comes a second time is known. Owns what is seen and not yet kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.feedback.feedback_state import Event
from shoal.agents.feedback.rollout import CountComparison
from shoal.agents.feedback.watching import KeepWatch, ReportDrift
from shoal.agents.registry.evidence import Seen


class CountingRegistry(Protocol):
    def keep(self, seen: Seen) -> None:
        """All of it in one change."""
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
        self._bets: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._watches: dict[str, Mapping[str, Any]] = {}
        self._notes: list[tuple[str, str]] = []
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

    def count(self, command: CountComparison | KeepWatch | ReportDrift) -> None:
        """Remember to make durable what was seen."""
        if isinstance(command, CountComparison):
            place = (command.version_key, command.stage)
            compared, agreed = self._counts.get(place, (0, 0))
            self._counts[place] = (compared + 1, agreed + int(command.agrees))
            self._bets[place] = command.bets.to_dict()
        elif isinstance(command, KeepWatch):
            self._watches[command.version_key] = command.watch.to_dict()
        else:
            self._notes.append((command.version_key, command.reason))

    def keep(self) -> int:
        """Make durable what was taken; returns how many comparisons that were. An error leaves all to be tried again."""
        if self._counts or self._watches or self._notes or self._senders:
            self._registry.keep(
                Seen(
                    counts=self._counts,
                    bets=self._bets,
                    watches=self._watches,
                    notes=self._notes,
                    senders=self._senders,
                )
            )
        compared = sum(count for count, _ in self._counts.values())
        kept, self._waiting = self._waiting, []
        self._counts, self._bets, self._watches, self._notes, self._senders = {}, {}, {}, [], {}
        for tell in kept:
            tell()
        return compared
