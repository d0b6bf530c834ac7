"""Comparisons are counted exactly once."""

from __future__ import annotations

import pytest

from shoal.agents.contract.sequential import Wager
from shoal.agents.feedback.counting import Batch, Counting
from shoal.agents.feedback.feedback_state import ComparisonSeen, Event
from shoal.agents.feedback.rollout import CountComparison
from shoal.agents.registry.evidence import Seen
from shoal.errors import SiteError


class Durable:
    """What outlives a process."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], tuple[int, int]] = {}
        self.senders: dict[str, int] = {}
        self.broken = False

    def keep(self, seen: Seen) -> None:
        if self.broken:
            raise SiteError("locked")
        for place, (compared, agreed) in seen.counts.items():
            known = self.counts.get(place, (0, 0))
            self.counts[place] = (known[0] + compared, known[1] + agreed)
        self.senders.update(seen.senders)

    def counted(self, sender: str) -> int:
        if self.broken:
            raise SiteError("locked")
        return self.senders.get(sender, 0)


def batch(first: int, count: int, told: list[int] | None = None, sender: str = "g") -> Batch:
    seen: tuple[Event, ...] = (
        ComparisonSeen(version_key="t@1", judged=True, agrees=True, accepted=True),
    ) * count
    return Batch(
        events=seen, sender=sender, first=first, kept=lambda: None if told is None else told.append(first)
    )


def feed(counting: Counting, given: Batch) -> int:
    taken = 0
    for _ in counting.take(given):
        counting.count(CountComparison(version_key="t@1", stage="shadow", agrees=True, bets=Wager()))
        taken += 1
    return taken


def test_a_batch_that_comes_again_is_not_counted_again_but_its_sender_is_told() -> None:
    durable, told = Durable(), list[int]()
    counting = Counting(durable)
    assert feed(counting, batch(1, 3, told)) == 3
    assert feed(counting, batch(1, 3, told)) == 0
    assert counting.keep() == 3
    assert (durable.counts, durable.senders, told) == ({("t@1", "shadow"): (3, 3)}, {"g": 3}, [1, 1])


def test_whoever_dies_before_it_is_kept_has_counted_nothing_and_after_it_everything() -> None:
    durable = Durable()
    feed(Counting(durable), batch(1, 3))  # it dies here
    again = Counting(durable)
    feed(again, batch(1, 3))
    again.keep()  # and here, before it could say so
    third = Counting(durable)
    assert feed(third, batch(1, 4)) == 1
    third.keep()
    assert durable.counts == {("t@1", "shadow"): (4, 4)}


def test_what_could_not_be_kept_is_kept_later_and_told_only_then() -> None:
    durable, told = Durable(), list[int]()
    counting = Counting(durable)
    feed(counting, batch(1, 2, told))
    durable.broken = True
    with pytest.raises(SiteError):
        counting.keep()
    assert told == []
    durable.broken = False
    feed(counting, batch(3, 1, told))
    assert counting.keep() == 3
    assert (durable.counts, told) == ({("t@1", "shadow"): (3, 3)}, [1, 3])


def test_a_batch_whose_sender_cannot_be_looked_up_is_not_said_to_be_kept() -> None:
    durable, told = Durable(), list[int]()
    durable.broken = True
    counting = Counting(durable)
    with pytest.raises(SiteError):
        feed(counting, batch(1, 2, told))
    durable.broken = False
    counting.keep()
    assert told == []


def test_events_that_nobody_sends_again_are_all_new() -> None:
    counting = Counting(Durable())
    assert feed(counting, batch(1, 2, sender="")) == feed(counting, batch(1, 2, sender="")) == 2
