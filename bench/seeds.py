"""Five seeds on one log: verdicts must agree on every task whose evidence does not straddle its bound.

    python bench/seeds.py LOG.jsonl[.gz] [--seeds 0,1,2,3,4] [--time-limit MIN] [--json]

Without a log the synthetic one of `kill_learning.py` is learnt from. The seed decides the split, the order of training and its start.
A task straddles its bound where, in any of the runs, the 95% interval of the share of right answers among those that would be
given holds the contract's 1 - alpha, or that of its coverage holds the least coverage that the gate takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _bench import machine
from kill_learning import command, rows, say

from shoal.agents.contract.gate import GateRules
from shoal.agents.registry.store import SqlRegistry
from shoal.home import Home


def verdicts(home: Path) -> dict[str, dict[str, Any]]:
    """By task name: the verdict of its newest version, or why it has none, and whether its evidence straddles a bound."""
    registry = SqlRegistry(Home(home).database)
    out = {}
    for task in registry.tasks():
        own = sorted(registry.versions(task.id), key=lambda v: v.number)
        if not own:
            out[task.name] = {"outcome": "skipped", "straddles": False, "figures": {}}
            continue
        gate = own[-1].evidence["gate"]
        out[task.name] = {
            "outcome": gate["outcome"],
            "straddles": straddles(gate["figures"], own[-1].alpha),
            "figures": gate["figures"],
        }
    return out


def straddles(figures: Mapping[str, Mapping[str, float]], alpha: float) -> bool:
    """Whether a figure's 95% interval holds the bound that it is judged by."""
    bounds = {"coverage": GateRules().min_coverage, "right_answered": 1 - alpha}
    judged = {name: figures[name] for name in bounds if name in figures and figures[name]["count"]}
    return any(figure["low"] <= bounds[name] <= figure["high"] for name, figure in judged.items())


def compare(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By task: its outcome in each run, whether they agree, and whether any of them straddles."""
    tasks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        for name, row in run.items():
            tasks[name].append(row)
    missing = {"outcome": "not found", "straddles": False}
    out = {}
    for name, found in sorted(tasks.items()):
        told = [*found, *[missing] * (len(runs) - len(found))]
        outcomes = [str(row["outcome"]) for row in told]
        out[name] = {
            "outcomes": outcomes,
            "agree": len(set(outcomes)) == 1,
            "straddles": any(row["straddles"] for row in told),
        }
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", nargs="?", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="shoal-seeds-") as folder:
        log = arguments.log
        if log is None:
            log = Path(folder) / "log.jsonl"
            log.write_text("\n".join(json.dumps(row) for row in rows(7)), encoding="utf-8")
        for seed in arguments.seeds.split(","):
            home = Path(folder) / f"seed-{seed}"
            quiet = subprocess.DEVNULL
            subprocess.run(command("traces", "import", str(log), home=home), check=True, stdout=quiet)
            limit = ["--seed", seed, "--time-limit", str(arguments.time_limit), "--json"]
            subprocess.run(command("learn", *limit, home=home), check=True, stdout=quiet, stderr=quiet)
            runs.append(verdicts(home))
            say(f"seed {seed}: " + ", ".join(f"{name} {row['outcome']}" for name, row in runs[-1].items()))
    tasks = compare(runs)
    wrong = [name for name, row in tasks.items() if not row["agree"] and not row["straddles"]]
    figure = {"value": len(wrong), "unit": f"of {len(tasks)} tasks", "target": "<= 0", "met": not wrong}
    if arguments.json:
        details = {"tasks": tasks}
        figures = {"seeds_that_disagree": figure}
        print(json.dumps({"machine": machine(), "figures": figures, "skipped": {}, "details": details}))
    else:
        for name, row in tasks.items():
            print(
                f"{name}: {', '.join(row['outcomes'])}{' (straddles its bound)' if row['straddles'] else ''}"
            )
        print(f"seeds_that_disagree: {figure['value']} {figure['unit']} {figure['target']}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
