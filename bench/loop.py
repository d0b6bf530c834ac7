"""The whole loop: the demo, and a real log from import to held-out answers.

Data: `traces/mixed_log.jsonl.gz` and `traces/mixed_eval.jsonl.gz` with their `.labels.csv` (id,call_site), made from BANKING77
(CC-BY-4.0), E2E NLG (CC-BY-SA-4.0) and Schema-Guided Dialogue (CC-BY-SA-4.0). The labels score; learning never sees them.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import Bench, main, sha256
from _tasks import ari, read_sites, read_tasks

#: SHA-256 of the log and the held-out calls that the published figures were measured on
KNOWN = {
    "mixed_log.jsonl.gz": "b4abdfeba5a487022a6dbe578f298343ee6e5fb977fcc3fe1c6448c0874ae9d3",
    "mixed_eval.jsonl.gz": "f2f1d947e5aaf99ce8ec106f7e0cc13265dcb2ffc8c45c2b530bf63de7433d22",
}
TIME_LIMIT_MIN = 20


def shoal(*arguments: str, home: Path, check: bool = True) -> tuple[str, float]:
    """Run a command; (standard output, seconds). `check`: it must succeed."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *arguments, "--home", str(home)],
        stdout=subprocess.PIPE,
        text=True,
        check=check,
    )
    return done.stdout, time.monotonic() - started


def measure_demo(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        output, seconds = shoal("demo", "--json", home=Path(folder) / "demo", check=False)
    demo = json.loads(output)
    command = "shoal demo --json"
    least = {"plan": 0.5, "analyse": 0.8, "write": 0.8}
    quality: dict[str, dict[str, Any]] = demo["quality"]
    share = demo["demo_specialist_share"]
    bench.figure("demo_specialist_share", share, "share of calls, worst step", at_least=0.5, command=command)
    for step, bound in least.items():
        value = quality[step]["specialist_share"]
        bench.figure(f"demo_{step}_share", value, "share of calls", at_least=bound, command=command)
    agreement = demo["demo_structured_agreement"]
    bench.figure("demo_structured_agreement", agreement, "share", at_least=0.97, command=command)
    valid = quality["plan"]["valid"]
    bench.figure("demo_plans_valid", valid, "share of specialists' plans", at_least=0.98, command=command)
    true = quality["write"]["true_all"]
    bench.figure("demo_sentences_true", true, "share of sentences", at_least=1.0, command=command)
    bench.figure("demo_seconds", seconds, "s", at_most=480, command=command)


def measure_log(bench: Bench, log: Path, held_out: Path) -> None:
    truth = read_sites(log)
    limit = 5 if bench.arguments.quick else TIME_LIMIT_MIN
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        home = Path(folder) / "home"
        _, seconds = shoal("traces", "import", str(log), "--json", home=home)
        bench.figure(
            "import_seconds", seconds, "s", at_most=60, command="shoal traces import mixed_log.jsonl.gz"
        )
        _, seconds = shoal("learn", "--time-limit", str(limit), "--json", home=home)
        bench.figure(
            "learn_seconds", seconds, "s", at_most=limit * 60, command=f"shoal learn --time-limit {limit}"
        )
        tasks_csv = Path(folder) / "tasks.csv"
        shoal("tasks", "export", "--out", str(tasks_csv), home=home)
        bench.figure(
            "ari",
            ari(truth, read_tasks(tasks_csv)),
            "",
            at_least=0.95,
            command="shoal tasks export --out tasks.csv",
        )
        predictions = Path(folder) / "predictions.jsonl"
        shoal("eval", str(held_out), "--out", str(predictions), "--json", home=home)
        measure_bank_intent(bench, held_out, predictions)


def measure_bank_intent(bench: Bench, held_out: Path, predictions: Path) -> None:
    """Right among those that a specialist answers, and the share that it answers, by exact match of the label."""
    sites = read_sites(held_out)
    with gzip.open(held_out, "rt", encoding="utf-8") as file:
        gold = {
            row["id"]: row["response"]["choices"][0]["message"]["content"] for row in map(json.loads, file)
        }
    answered = right = total = 0
    for row in map(json.loads, predictions.read_text(encoding="utf-8").splitlines()):
        if sites.get(row["id"]) != "bank_intent":
            continue
        total += 1
        if row["answer"] is not None:
            answered += 1
            right += answer_text(row["answer"]).strip() == gold[row["id"]].strip()
    command = "shoal eval mixed_eval.jsonl.gz --out predictions.jsonl"
    bench.figure(
        "bank_intent_precision",
        right / max(answered, 1),
        "share right of answered",
        at_least=0.95,
        command=command,
    )
    bench.figure("bank_intent_coverage", answered / total, "share answered", at_least=0.8, command=command)


def answer_text(answer: Any) -> str:
    return str(answer["content"]) if isinstance(answer, dict) else str(answer)


def run(bench: Bench) -> None:
    measure_demo(bench)
    log, held_out = (bench.arguments.data / "traces" / name for name in KNOWN)
    if not log.is_file() or not held_out.is_file():
        bench.skip(
            ["import_seconds", "learn_seconds", "ari", "bank_intent_precision", "bank_intent_coverage"],
            f"no {log} or {held_out.name}; name the folder with --data",
        )
        return
    for path in (log, held_out):
        if sha256(path) != KNOWN[path.name]:
            bench.say(f"{path.name} is not the file of the published figures (SHA-256 differs)")
    measure_log(bench, log, held_out)


if __name__ == "__main__":
    main("loop", "The whole loop: the demo, and a real log from import to held-out answers.", run)
