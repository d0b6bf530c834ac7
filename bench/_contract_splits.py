"""The contract on real calls that a site never trained on: violations over half-splits, coverage, and services it never saw.

The site is `--home DIR`, or one that learns `mixed_log` here (30 minutes). `shoal eval --out` says what its specialists would have
answered to `mixed_eval`, how sure they are of it, and whether it is wrong by the task's loss.

The service of a call is known where the log has it: its name in a record, the functions that are offered, or, where the system prompt
names it, that prompt. Calls of one conversation are of one service, so one of them that is unknown makes all of them so.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Bench
from _calls import tools_key
from _tasks import read_sites, rows_of
from loop import shoal

from shoal.agents.contract.calibrate import calibrate, lower_bound
from shoal.agents.contract.figures import share
from shoal.agents.learning.evidence import ALPHAS

ALPHA = DELTA = 0.05
SPLITS = 200
QUICK_SPLITS = 40
TIME_LIMIT_MIN = 30
QUICK_LIMIT_MIN = 6
SITES = ("bank_intent", "dialogue_intent", "service_call", "restaurant_text", "say_actions")
#: the share that must be answered at alpha = delta = 0.05, and what is aimed at
COVERAGE = {"bank_intent": 0.85, "dialogue_intent": 0.85}
TO_GENERALIST = 0.95
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One held-out call: what the site's specialist made of it."""

    site: str
    conversation: str
    known: bool
    confidence: float
    wrong: bool
    answered: bool


def conversation_of(row: Row) -> str:
    return str((row["request"].get("metadata") or {}).get("conversation_id") or row["id"])


def marks_of(row: Row) -> set[str]:
    """What names a call's service: its prompt, its functions, its record's `service`."""
    messages = row["request"]["messages"]
    marks = {"prompt " + "\n".join(str(m["content"]) for m in messages if m["role"] == "system")}
    if row["request"].get("tools"):
        marks.add("tools " + tools_key(row["request"]))
    try:
        record = json.loads(str(messages[-1]["content"]))
        marks.add(f"service {record['service']}")
    except (ValueError, KeyError, TypeError):
        pass
    return marks


def read_calls(log: Path, held_out: Path, predictions: Path) -> list[Call]:
    """The held-out calls with what a site said to them (rows of `shoal eval --out`)."""
    seen = {mark for row in rows_of(log) for mark in marks_of(row)}
    rows, sites = list(rows_of(held_out)), read_sites(held_out)
    new = {conversation_of(row) for row in rows if marks_of(row) - seen}
    lines = predictions.read_text(encoding="utf-8").splitlines()
    said = {row["id"]: row for row in map(json.loads, lines)}
    return [
        Call(
            site=sites[row["id"]],
            conversation=conversation_of(row),
            known=conversation_of(row) not in new,
            confidence=float(said[row["id"]]["confidence"] or 0.0),
            # who has no answer is never sure, and would be wrong
            wrong=said[row["id"]]["wrong"] is not False,
            answered=said[row["id"]]["answer"] is not None,
        )
        for row in rows
    ]


def half_splits(
    calls: Sequence[Call], splits: int, *, alpha: float = ALPHA, seed: int = 0
) -> dict[str, float]:
    """Calibrate on one half of the conversations and test on the other, again and again.

    Returns shares: `violations` (of splits whose test half shows, with confidence 95%, a risk above alpha), `infeasible` (of splits),
    `coverage` and `risk` (means over the test halves; nothing answered is no risk).
    """
    rng = np.random.default_rng(seed)
    groups = {name: i for i, name in enumerate(dict.fromkeys(c.conversation for c in calls))}
    of = np.array([groups[c.conversation] for c in calls])
    confidence = np.array([c.confidence for c in calls])
    wrong = np.array([c.wrong for c in calls])
    violations, infeasible, coverage, risk = [], [], [], []
    for _ in range(splits):
        first = (rng.permutation(len(groups)) < len(groups) // 2)[of]
        found = calibrate(
            confidence[first].tolist(), wrong[first].tolist(), alpha, DELTA, groups=of[first].tolist()
        )
        through = confidence[~first] >= found.threshold
        answered, bad = int(through.sum()), int(wrong[~first][through].sum())
        violations.append(answered > 0 and lower_bound(bad, answered, 0.05) > alpha)
        infeasible.append(not found.feasible)
        coverage.append(answered / len(through))
        risk.append(bad / answered if answered else 0.0)
    means = (float(np.mean(values)) for values in (violations, infeasible, coverage, risk))
    return dict(zip(("violations", "infeasible", "coverage", "risk"), means, strict=True))


def measure(bench: Bench, data: Path) -> None:
    """See the module."""
    log, held_out = data / "traces" / "mixed_log.jsonl.gz", data / "traces" / "mixed_eval.jsonl.gz"
    if not log.is_file() or not held_out.is_file():
        bench.skip(
            [*(f"{site}_coverage" for site in COVERAGE), "violations_at_05", "unseen_to_generalist"],
            f"no {log} or {held_out.name}; name the folder with --data",
        )
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        predictions = bench.arguments.predictions or Path(folder) / "predictions.jsonl"
        if not predictions.is_file():
            home = bench.arguments.home or learnt(bench, log, Path(folder) / "home")
            shoal("eval", str(held_out), "--out", str(predictions), "--json", home=home)
        calls = read_calls(log, held_out, predictions)
    by_site = {site: [c for c in calls if c.site == site and c.known] for site in SITES}
    shifted(bench, by_site)
    re_split(bench, by_site)
    unseen(bench, [c for c in calls if not c.known])


def learnt(bench: Bench, log: Path, home: Path) -> Path:
    limit = QUICK_LIMIT_MIN if bench.arguments.quick else TIME_LIMIT_MIN
    shoal("traces", "import", str(log), "--json", home=home)
    shoal("learn", "--time-limit", str(limit), "--json", home=home)
    return home


def shifted(bench: Bench, by_site: Mapping[str, Sequence[Call]]) -> None:
    """Calibrated on the log, as the site did it, and tested on what came later: the traffic has shifted, so nothing is proved."""
    for site, calls in by_site.items():
        answered = [c for c in calls if c.answered]
        bench.figure(
            f"{site}_coverage",
            len(answered) / len(calls),
            "share answered, services of the log, calibrated on the log",
            at_least=COVERAGE.get(site),
            command="python bench/contract.py --only splits",
        )
        if answered:
            wrong = share(sum(c.wrong for c in answered), len(answered))
            bench.say(f"  {site}: wrong of answered {wrong}")
            bench.figure(f"{site}_wrong", wrong.value, "share of answered, calibrated on the log")


def re_split(bench: Bench, by_site: Mapping[str, Sequence[Call]]) -> None:
    splits = QUICK_SPLITS if bench.arguments.quick else SPLITS
    worst = 0.0
    for site, calls in by_site.items():
        found = half_splits(calls, splits)
        worst = max(worst, found["violations"])
        bench.say(
            f"  {site}, {len(calls)} calls: violations {found['violations']:.1%}, infeasible {found['infeasible']:.1%}, "
            f"answered {found['coverage']:.1%}, wrong of those {found['risk']:.2%}"
        )
        bench.figure(
            f"{site}_violations_at_05", found["violations"], f"share of {splits} half-splits", at_most=0.05
        )
        bench.figure(f"{site}_split_coverage", found["coverage"], "mean share answered of a test half")
        for alpha in ALPHAS:
            if alpha != ALPHA:
                at = half_splits(calls, max(10, splits // 10), alpha=alpha)
                bench.say(
                    f"    alpha {alpha:.1%}: answered {at['coverage']:.1%}, infeasible {at['infeasible']:.0%}"
                )
    bench.figure("violations_at_05", worst, f"share of {splits} half-splits, worst task", at_most=0.05)


def unseen(bench: Bench, calls: Sequence[Call]) -> None:
    """Calls of services that the log never had."""
    for site in SITES:
        own = [c for c in calls if c.site == site]
        if own:
            kept = sum(not c.answered for c in own)
            bench.say(f"  {site}, services unknown: {kept} of {len(own)} to the generalist")
    to_generalist = sum(not c.answered for c in calls) / max(1, len(calls))
    bench.figure(
        "unseen_to_generalist", to_generalist, f"share of {len(calls)} calls", at_least=TO_GENERALIST
    )
