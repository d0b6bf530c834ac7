"""Traces held in memory, as they are: for logs that are looked at and not kept. Does not scrub."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from shoal.agents.traces.trace import Trace, TraceId


class MemoryTraceStore:
    """A `TraceStore` without a disk. Scans in the order in which traces came."""

    def __init__(self, traces: Iterable[Trace] = ()) -> None:
        self._traces: dict[TraceId, Trace] = {trace.id: trace for trace in traces}

    def add(self, traces: Iterable[Trace]) -> int:
        count = 0
        for trace in traces:
            self._traces[trace.id] = trace
            count += 1
        return count

    def scan(self, *, since: float = float("-inf")) -> Iterator[Trace]:
        return iter([trace for trace in self._traces.values() if trace.timestamp >= since])

    def get(self, trace_id: TraceId) -> Trace | None:
        return self._traces.get(trace_id)

    def count(self) -> int:
        return len(self._traces)

    def pick(self, ids: Collection[str]) -> list[Trace]:
        return [trace for trace_id, trace in self._traces.items() if trace_id in ids]

    def known(self, ids: Collection[str]) -> set[str]:
        return {trace_id for trace_id in ids if trace_id in self._traces}
