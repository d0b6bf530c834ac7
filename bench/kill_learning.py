"""Kill -9 in the middle of learning: a run that dies again and again must end as one that nobody disturbed.

A small synthetic log of three tasks (labels, records, texts) is learnt from once without disturbance; then in further data folders,
each learning process being killed at a random moment (seeded) and started again, until it has been killed `--kills` times. After each
death what is registered must be whole; after each end, tasks, verdicts, thresholds and the SHA-256 of every model must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import machine

from shoal.agents.learning.folder import verify
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import CorruptModel
from shoal.home import Home

SEED = 7
#: far more than it takes, so that the clock cuts nothing
TIME_LIMIT_MIN = 10
_CALLS = 300


def rows(seed: int) -> list[dict[str, Any]]:
    """A log of three tasks, `_CALLS` calls each, in Shoal's own form."""
    rng = random.Random(seed)
    out = []
    for n in range(_CALLS):
        word, intent = rng.choice(
            [("lost", "card"), ("late", "transfer"), ("secret", "pin"), ("fee", "cost")]
        )
        text = f"hello my {word} thing number {n} {rng.choice('abcdef')} please help"
        out.append(("Name the intent of the customer's message.", text, intent))
        load, heat = rng.randint(1, 99), rng.randint(20, 120)
        grade = "stop" if heat > 90 else "slow" if load > 70 else "go"
        reading = json.dumps({"machine": n, "load": load, "heat": heat})
        out.append(("Say what the machine with these readings should do.", reading, grade))
        region, growth = rng.choice(["EMEA", "APAC", "Nordics", "Iberia"]), rng.choice([-9, -4, 3, 8, 15])
        verb, shop = "grew" if growth > 0 else "fell", f"{rng.choice(['Elm', 'Oak', 'Fir'])} {n}"
        said = rng.choice(
            [f"{shop} in {region} {verb} by {abs(growth)}%.", f"{region}: {shop} {verb} {abs(growth)}%."]
        )
        record = json.dumps({"region": region, "growth": growth, "shop": shop})
        out.append(("Tell the manager about this figure in one sentence.", record, said))
    return [
        {
            "id": f"call-{n}",
            "timestamp": 1_735_689_600 + 60 * n,
            "request": {
                "model": "big",
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            },
            "response": {
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
                ]
            },
        }
        for n, (system, user, answer) in enumerate(out)
    ]


def command(*arguments: str, home: Path) -> list[str]:
    return [sys.executable, "-m", "shoal", *arguments, "--home", str(home)]


def new_home(folder: Path, name: str, log: Path) -> Path:
    home = folder / name
    subprocess.run(command("traces", "import", str(log), home=home), check=True, stdout=subprocess.DEVNULL)
    return home


def learn_command(home: Path, seed: int = SEED) -> list[str]:
    return command("learn", "--seed", str(seed), "--time-limit", str(TIME_LIMIT_MIN), "--json", home=home)


def outcome(home: Path) -> dict[str, Any]:
    """All that a learning run leaves: tasks with their reasons, versions with their state, threshold and hash."""
    registry = SqlRegistry(Home(home).database)
    return {
        "tasks": sorted((t.id, t.name, str(t.output_kind), t.reason) for t in registry.tasks()),
        "versions": sorted((v.key, v.kind, str(v.state), v.threshold, v.sha256) for v in registry.versions()),
    }


def broken(home: Path) -> list[str]:
    """Registered versions whose folders are not what their cards say."""
    if not Home(home).database.exists():
        return []
    out = []
    for version in SqlRegistry(Home(home).database).versions():
        try:
            verify(Home(home).models / version.folder, version.sha256)
        except CorruptModel as error:
            out.append(f"{version.key}: {error}")
    return out


def run_or_kill(home: Path, after_s: float) -> bool:
    """Learn; kill -9 after so many seconds. Whether it was killed (else it ended by itself before)."""
    process = subprocess.Popen(learn_command(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if process.returncode:
        raise RuntimeError(f"shoal learn ended with code {process.returncode} in {home}")
    return False


def measure(kills: int, folder: Path, *, log_seed: int = SEED) -> dict[str, Any]:
    log = folder / "log.jsonl"
    log.write_text("\n".join(json.dumps(row) for row in rows(log_seed)), encoding="utf-8")
    whole = new_home(folder, "whole", log)
    started = time.monotonic()
    subprocess.run(learn_command(whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    undisturbed_s = time.monotonic() - started
    wanted = outcome(whole)
    say(
        f"undisturbed: {undisturbed_s:.1f} s, {len(wanted['tasks'])} tasks, {len(wanted['versions'])} versions"
    )
    chance = random.Random(log_seed)
    killed, corrupt, different, rounds, longest_s = 0, 0, 0, 0, undisturbed_s
    while killed < kills:
        home = new_home(folder, f"killed-{rounds}", log)
        rounds += 1
        busy_s, deaths = 0.0, 0
        while True:
            # a run that goes on has less before it, so that kills at the end of the first one would miss all others
            after_s = chance.uniform(0.05, 1.0) * undisturbed_s if killed < kills else 3600.0
            started = time.monotonic()
            dead = run_or_kill(home, after_s)
            busy_s += time.monotonic() - started
            bad = broken(home)
            corrupt += len(bad)
            for what in bad:
                say(f"  broken: {what}")
            if not dead:
                break
            killed, deaths = killed + 1, deaths + 1
            say(f"  kill {killed} after {after_s:.1f} s")
        longest_s = max(longest_s, busy_s)
        same = outcome(home) == wanted
        different += not same
        say(
            f"round {rounds}: {deaths} kills, {busy_s:.1f} s of learning, {'the same' if same else 'DIFFERENT'}"
        )
        if not same:
            say(json.dumps({"wanted": wanted, "got": outcome(home)}, indent=1))
    return {
        "killed": killed,
        "rounds": rounds,
        "rounds_that_differ": different,
        "broken_versions": corrupt,
        "undisturbed_s": round(undisturbed_s, 1),
        "tasks": [list(row[1:3]) for row in wanted["tasks"]],
        "versions": [list(row[:3]) for row in wanted["versions"]],
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-kill-") as folder:
        got = measure(5 if arguments.quick else arguments.kills, Path(folder))
    figures = {
        "kills": {"value": got["killed"], "unit": "kill -9", "target": "", "met": None},
        "kill_rounds_that_differ": {
            "value": got["rounds_that_differ"],
            "unit": f"of {got['rounds']} runs",
            "target": "<= 0",
            "met": got["rounds_that_differ"] == 0,
        },
        "kill_broken_versions": {
            "value": got["broken_versions"],
            "unit": "versions",
            "target": "<= 0",
            "met": got["broken_versions"] == 0,
        },
    }
    if arguments.json:
        print(json.dumps({"machine": machine(), "figures": figures, "skipped": {}, "details": got}))
    else:
        for name, row in figures.items():
            print(f"{name}: {row['value']} {row['unit']} {row['target']}")
    return int(any(row["met"] is False for row in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
