"""Figures of finding tasks: on a log as it is, and with all that names the call-site taken away.

The log and its truth are `traces/mixed_log.jsonl.gz` and `.labels.csv` (id,call_site); see `loop.py`. The labels score only.
"""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sklearn.metrics import adjusted_rand_score

SHARED_PROMPT = "You are a helpful agent."


def read_sites(log: Path) -> dict[str, str]:
    """id -> call-site, from the CSV beside a log."""
    return read_tasks(log.with_name(log.name.replace(".jsonl.gz", ".labels.csv")))


def read_tasks(path: Path) -> dict[str, str]:
    """id -> task, from what `shoal tasks export` writes."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row[0]: row[1] for row in csv.reader(file) if row[0] != "id"}


def ari(truth: Mapping[str, str], found: Mapping[str, str | None]) -> float:
    """Adjusted Rand index over all calls; the unclustered ones are a cluster."""
    return float(adjusted_rand_score(list(truth.values()), [found.get(i) or "-" for i in truth]))


def worst_purity_completeness(
    truth: Mapping[str, str], found: Mapping[str, str | None]
) -> tuple[float, float]:
    """For each call-site take the task that holds most of it: completeness is the share of the call-site that it holds,
    purity the share of it that is the call-site. The worst of each over call-sites."""
    tasks = {i: found.get(i) or "-" for i in truth}
    pairs = Counter((site, tasks[i]) for i, site in truth.items())
    sites, sizes = Counter(truth.values()), Counter(tasks.values())
    purity, completeness = [], []
    for site, size in sites.items():
        count, task = max((n, t) for (s, t), n in pairs.items() if s == site)
        purity.append(0.0 if task == "-" else count / sizes[task])
        completeness.append(0.0 if task == "-" else count / size)
    return min(purity), min(completeness)


def rows_of(log: Path) -> Iterator[dict[str, Any]]:
    """The calls of a gzipped log."""
    with gzip.open(log, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def stripped(row: Mapping[str, Any]) -> dict[str, Any]:
    """A call with one system prompt for all, no tools, no client, no metadata, no settings; its answer is left in."""
    messages = [m for m in row["request"]["messages"] if m["role"] != "system"]
    request = {"model": "large", "messages": [{"role": "system", "content": SHARED_PROMPT}, *messages]}
    return {"id": row["id"], "timestamp": row["timestamp"], "request": request, "response": row["response"]}


def measure_tasks(log: Path, *, seed: int = 0) -> dict[str, float]:
    """`ari`, `stripped_purity`, `stripped_completeness` (worst call-site; answers not used) and the seconds of each search."""
    from shoal.agents.tasks.finder import find_tasks
    from shoal.agents.traces.trace import Trace

    truth = read_sites(log)
    traces = [Trace.from_dict(row) for row in rows_of(log)]
    started = time.monotonic()
    found = find_tasks(traces, known=(), seed=seed, now=0.0)
    figures = {"ari": ari(truth, found.assignment), "find_seconds": time.monotonic() - started}
    traces = [Trace.from_dict(stripped(row)) for row in rows_of(log)]
    started = time.monotonic()
    found = find_tasks(traces, known=(), seed=seed, now=0.0, use_answers=False)
    purity, completeness = worst_purity_completeness(truth, found.assignment)
    return {
        **figures,
        "stripped_purity": purity,
        "stripped_completeness": completeness,
        "stripped_seconds": time.monotonic() - started,
    }


def measure_turns(log: Path, held_out: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """The kinds of turn found in an agent's log: name, calls, calls held out, and what followed most, with its share, in both."""
    from shoal.agents.tasks.finder import find_tasks
    from shoal.agents.tasks.matcher import Matcher
    from shoal.agents.traces.trace import Trace

    learnt, later = ([Trace.from_dict(row) for row in rows_of(path)] for path in (log, held_out))
    found = find_tasks(learnt, known=(), seed=seed, now=0.0)
    matcher = Matcher([(task.id, task) for task in found.tasks])
    rows = []
    for task in found.tasks:
        seen = Counter(_action(t) for t in learnt if found.assignment[t.id] == task.id)
        new = Counter(_action(t) for t in later if matcher.match(t.chat).task_id == task.id)
        action, count = seen.most_common(1)[0]
        rows.append(
            {
                "task": task.name,
                "calls": seen.total(),
                "held_out": new.total(),
                "follows": action,
                "share": count / seen.total(),
                "held_out_share": new[action] / max(1, new.total()),
            }
        )
    return rows


def _action(trace: Any) -> str:
    calls = trace.answer.tool_calls
    return str(calls[0]["function"]["name"]) if calls else "text"
