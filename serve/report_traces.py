"""One pass over the traces for the report: totals by task, a sample for the map, and the calls that evidence points to."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.ledger import Ledger
from shoal.agents.feedback.ledger_reading import TaskFinder
from shoal.agents.learning.volume import tokens_of_trace
from shoal.agents.ports import TraceStore
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.traces.trace import Trace, TraceId

_EXAMPLES_PER_TASK = 3
#: calls that the map shows, at most
_SAMPLE = 600
_SAMPLE_CHARS = 500
_HOUR_S = 3600.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the traces of one task, or all, add up to. Tokens as answers report them, else estimated."""

    calls: int = 0
    by_specialist: int = 0
    generalist_in: int = 0
    generalist_out: int = 0
    specialist_in: int = 0
    specialist_out: int = 0
    estimated: int = 0
    examples: list[Trace] = field(default_factory=list)

    def add(self, trace: Trace, rng: random.Random | None) -> None:
        self.calls += 1
        prompt, completion, is_estimate = tokens_of_trace(trace)
        self.estimated += is_estimate
        if trace.served_by.startswith("specialist/"):
            self.by_specialist += 1
            self.specialist_in += prompt
            self.specialist_out += completion
        else:
            self.generalist_in += prompt
            self.generalist_out += completion
        if rng is not None:
            keep(self.examples, trace, self.calls, _EXAMPLES_PER_TASK, rng)

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens, whoever answered."""
        return self.generalist_in + self.specialist_in, self.generalist_out + self.specialist_out

    def cost(self, price: Price | None) -> float:
        """USD, as if the generalist answered all; with no price, tokens, an answer's counting four times."""
        prompt, completion = self.tokens
        return float(prompt + 4 * completion) if price is None else price.of(prompt, completion)


@dataclass(slots=True, kw_only=True)
class Readings:
    """What one pass found.

    Attributes:
        sample: (text, task) of calls drawn evenly, for the map.
        picked: the calls asked for by id, those that are still there.
    """

    total: Tally = field(default_factory=Tally)
    tallies: dict[TaskId, Tally] = field(default_factory=dict)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: float = math.inf
    last: float = -math.inf
    sample: list[tuple[str, TaskId | None]] = field(default_factory=list)
    picked: dict[str, Trace] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def per_day(self, calls: int) -> float | None:
        """Calls a day; None where the log spans less than an hour."""
        span = self.last - self.first
        return calls / (span / (24 * _HOUR_S)) if span >= _HOUR_S else None


def read_traces(store: TraceStore, tasks: Sequence[Task], wanted: Collection[str]) -> Readings:
    """All traces, each read once. `wanted`: ids to be kept whole."""
    task_of = TaskFinder(tasks)
    rngs = {task.id: random.Random(str(task.id)) for task in tasks}
    draw = random.Random(0)
    out = Readings()
    for trace in store.scan():
        out.total.add(trace, None)
        out.first, out.last = min(out.first, trace.timestamp), max(out.last, trace.timestamp)
        said_by = trace.served_by or str(trace.response.get("model") or "not recorded")
        out.models[said_by, str(trace.response.get("system_fingerprint") or "")[:80]] += 1
        request = trace.chat
        task_id = task_of(trace)
        out.ledger.add(trace, task_id)
        if task_id is not None:
            out.tallies.setdefault(task_id, Tally()).add(trace, rngs[task_id])
        text = f"{request.system_text[:_SAMPLE_CHARS]}\n{request.last_user_text[:_SAMPLE_CHARS]}"
        keep(out.sample, (text, task_id), out.total.calls, _SAMPLE, draw)
        if trace.id in wanted:
            out.picked[TraceId(trace.id)] = trace
    return out


def keep(kept: list, item: object, seen: int, most: int, rng: random.Random) -> None:  # type: ignore[type-arg]
    """Reservoir sampling: after `seen` items each of them stands in `kept` with the same chance."""
    if len(kept) < most:
        kept.append(item)
    elif (place := rng.randrange(seen)) < most:
        kept[place] = item
