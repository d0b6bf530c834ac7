"""How far the turns of an agent can be moved at all: what its log holds to learn from and to prove by, and how its model agrees with itself.

Data: `traces/airline_gpt4o_log.jsonl.gz` and `airline_gpt4o_eval.jsonl.gz` (tau-bench, MIT). What specialists reach is in `learning.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from _bench import Bench, main
from _tasks import rows_of

from shoal.agents.contract.calibrate import fewest_calls
from shoal.agents.contract.loss import canonical_tool_calls, normal_label
from shoal.agents.learning.material import read_lesson
from shoal.agents.learning.splits import calibration_share
from shoal.agents.traces.trace import Trace

ALPHA = DELTA = 0.05
_NAME = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{5,40}\b|\b[A-Z0-9]{6}\b")


def situation(trace: Trace) -> tuple[Any, ...]:
    """Equal for turns at the same stage of the same work: functions called so far with their arguments, names that the user
    gave (`ABC123`), who spoke last, how often the user spoke."""
    messages = [m for m in trace.chat.messages if m["role"] != "system"]
    said = [m for m in messages if m["role"] == "user"]
    called = [canonical_tool_calls([c]) for m in messages for c in m.get("tool_calls") or ()]
    names = sorted({name for m in said for name in _NAME.findall(str(m["content"]))})
    return tuple(called), tuple(names), messages[-1]["role"], len(said)


def self_agreement(traces: Sequence[Trace]) -> tuple[int, int]:
    """(agreeing, all) pairs of turns of different conversations in the same situation, at least one of which calls a function."""
    turns: dict[tuple[Any, ...], list[tuple[Any, str]]] = defaultdict(list)
    for trace in traces:
        calls = trace.answer.tool_calls
        did = canonical_tool_calls(calls) if calls else ""
        turns[situation(trace)].append((trace.chat.conversation_id, did))
    pairs = [
        (one, other)
        for alike in turns.values()
        for (mine, one), (theirs, other) in combinations(alike, 2)
        if mine != theirs and (one or other)
    ]
    return sum(one == other for one, other in pairs), len(pairs)


def run(bench: Bench) -> None:
    folder = bench.arguments.data / "traces"
    log, held_out = folder / "airline_gpt4o_log.jsonl.gz", folder / "airline_gpt4o_eval.jsonl.gz"
    if not (log.is_file() and held_out.is_file()):
        bench.skip(["self_agreement"], f"no {log} or {held_out.name}; name the folder with --data")
        return
    learnt, later = ([Trace.from_dict(row) for row in rows_of(path)] for path in (log, held_out))
    usable = sum(not read_lesson(t).useless for t in learnt)
    bench.figure("usable_turns", usable, f"of {len(learnt)} logged; the others are of runs that failed")
    proof = fewest_calls(ALPHA, DELTA) / (calibration_share(usable) * usable)
    bench.figure(
        "least_provable_share", proof, "share of turns, all right, from which on 5% can be shown at 95%"
    )
    agreeing, pairs = self_agreement(later)
    bench.figure(
        "self_agreement", agreeing / pairs, f"share of {pairs} pairs in the same situation that do the same"
    )
    texts = [normal_label(t.answer.content or "") for t in later if not t.answer.tool_calls]
    known = {normal_label(t.answer.content or "") for t in learnt}
    bench.figure("texts_known", sum(t in known for t in texts) / len(texts), f"share of {len(texts)} texts")


if __name__ == "__main__":
    main("agent_turns", "How far an agent's turns can be moved at all.", run)
