"""A bounded sample of calls, on which it is decided what the tasks are. Nothing but the sample and counts stays in memory.

Which calls stay depends on their ids and the seed alone: the same log gives the same sample in any order.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b

from shoal.agents.tasks.calls import Call

#: calls kept in all; a log that has no more is kept whole
MAX_SAMPLE = 60_000
#: of a group with the same prompt, so many stay whatever happens, as long as groups are few
_FLOOR = 64


class Sample:
    """Keeps of each group (calls of one fingerprint) those with the smallest lots, fewer of each the more there are."""

    def __init__(self, seed: int, limit: int = MAX_SAMPLE) -> None:
        self._seed = str(seed)
        self._limit = limit
        self._most = limit
        self._highest_lot = 1.0
        self._kept: dict[str, list[tuple[float, int, Call]]] = defaultdict(list)
        self._size = 0
        #: calls that were added, kept or not
        self.seen = 0

    def add(self, call: Call) -> None:
        """Take a call into account."""
        self.seen += 1
        lot = self._lot(call.id)
        if lot > self._highest_lot:
            return
        self._kept[call.features.fingerprint].append((lot, self.seen, call))
        self._size += 1
        if self._size > self._limit:
            self._thin()

    def calls(self) -> list[Call]:
        """The sample, in the order in which its calls were added."""
        if self.seen > self._size:
            self._thin()
        rows = [row for kept in self._kept.values() for row in kept]
        return [call for _, _, call in sorted(rows, key=lambda row: row[1])]

    def _lot(self, name: str) -> float:
        digest = blake2b(f"{self._seed}\x1f{name}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
        return int.from_bytes(digest, "big") / 2**56

    def _thin(self) -> None:
        """Halve what the largest groups may keep until nine tenths of the limit do; where all are small, drop calls by lot.

        What is kept in the end depends on the sizes of the groups and the lots, not on when this happens.
        """
        self._trim()
        while self._size > 0.9 * self._limit and self._most > _FLOOR:
            self._most //= 2
            self._trim()
        while self._size > 0.9 * self._limit:
            self._highest_lot *= 0.7
            self._trim()

    def _trim(self) -> None:
        for group in list(self._kept):
            kept = self._kept[group]
            if len(kept) > self._most or self._highest_lot < 1.0:
                left = sorted((row for row in kept if row[0] <= self._highest_lot), key=_by_lot)[: self._most]
                self._kept[group] = left
                if not left:
                    del self._kept[group]
        self._size = sum(map(len, self._kept.values()))


def _by_lot(row: tuple[float, int, Call]) -> tuple[float, str]:
    return row[0], row[2].id
