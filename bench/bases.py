"""Real pretrained bases beside each other: what each takes to load and to train for one task, and how well it then answers.

Data: `bank_intent` calls of `traces/mixed_log.jsonl.gz` and `traces/mixed_eval.jsonl.gz` (BANKING77, CC-BY-4.0), recognised by their
`.labels.csv`. Bases come from the local Hugging Face cache or the hub; one that cannot be had is listed under `skipped` with the reason.
Name others with `--bases ID-OR-FOLDER ...` (SHOAL_BENCH_BASES, separated by commas, does the same).
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import Bench, main
from _tasks import read_sites

#: one or two of each family that a laptop can adapt, with permissive licences
BASES = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-0.6B",
    "microsoft/Phi-3-mini-4k-instruct",
    "mistralai/Mistral-7B-Instruct-v0.3",
)
CALL_SITE = "bank_intent"
FIGURES = ("right", "train_seconds", "load_seconds", "memory_mb", "answers_per_s")


def read_calls(log: Path, most: int) -> list[Any]:
    """The first `most` calls of the call-site as training pairs."""
    from shoal.agents.learning.training import Example
    from shoal.agents.traces.chat import ChatRequest

    sites = read_sites(log)
    found = []
    with gzip.open(log, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if sites.get(row["id"]) != CALL_SITE:
                continue
            content = row["response"]["choices"][0]["message"]["content"]
            request = ChatRequest(body=row["request"])
            found.append(Example(id=row["id"], request=request, content=content, group=row["id"]))
            if len(found) == most:
                break
    return found


def measure(bench: Bench, model: str, log: Path, held_out: Path) -> None:
    """Train one base for some minutes, put held-out calls to it, and write down what that took."""
    from shoal.agents.learning.answers import answer_key
    from shoal.agents.learning.base_files import read_base
    from shoal.agents.learning.folder import seal
    from shoal.agents.learning.lora import Rung, train_lora
    from shoal.agents.learning.lora_rungs import this_machine
    from shoal.agents.learning.training import TrainContext
    from shoal.config import Config, LearningConfig
    from shoal.serve.engines import load

    quick = bench.arguments.quick
    calls = read_calls(log, 400 if quick else 4000)
    asked = read_calls(held_out, 50 if quick else 500)
    base, folder = read_base(model, allowed=LearningConfig().licences)
    rung = Rung(base=base, folder=folder, nodes=tuple(this_machine(Config())))
    name = model.rpartition("/")[2]
    command = f"python bench/bases.py --bases {model}" + (" --quick" if quick else "")
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as place:
        out, work = Path(place) / "version", Path(place) / "work"
        context = TrainContext(
            seed=0, seconds=60 if quick else 600, work=work, monotonic=time.monotonic, progress=_shown(bench)
        )
        held = len(calls) // 10
        started = time.monotonic()
        report = train_lora(calls[held:], calls[:held], out, context, rung=rung)
        bench.figure(f"{name}_train_seconds", time.monotonic() - started, "s", command=command)
        seal(out, {"kind": report.kind})
        started = time.monotonic()
        engine = load(out)
        bench.figure(f"{name}_load_seconds", time.monotonic() - started, "s", command=command)
        bench.figure(f"{name}_memory_mb", float(report.details["memory_mb"]), "MiB", command=command)
        started = time.monotonic()
        answers = engine.answer([e.request for e in asked])
        bench.figure(
            f"{name}_answers_per_s", len(asked) / (time.monotonic() - started), "answers/s", command=command
        )
        right = sum(
            answer_key(a.content or "") == answer_key(e.content) for a, e in zip(answers, asked, strict=True)
        )
        unit = f"share of {len(asked)}, after {report.steps} of {report.details['planned_steps']} steps"
        bench.figure(f"{name}_right", right / len(asked), unit, command=command)


def _shown(bench: Bench) -> Any:
    last = [0.0]

    def show(fraction: float, text: str) -> None:
        if fraction - last[0] >= 0.1:
            last[0] = fraction
            bench.say(f"  {fraction:.0%} {text}")

    return show


def run(bench: Bench) -> None:
    named = bench.arguments.bases or [b for b in os.environ.get("SHOAL_BENCH_BASES", "").split(",") if b]
    listed = named or list(BASES)
    log, held_out = (bench.arguments.data / "traces" / f"mixed_{part}.jsonl.gz" for part in ("log", "eval"))
    for model in listed:
        names = [f"{model.rpartition('/')[2]}_{figure}" for figure in FIGURES]
        if not log.is_file() or not held_out.is_file():
            bench.skip(names, f"no {log} or {held_out.name}; name the folder with --data")
            continue
        try:
            import llguidance  # noqa: F401
            import peft  # noqa: F401

            from shoal.errors import ShoalError
        except ImportError as error:
            bench.skip(names, f"{error}; pip install 'shoal[bases]'")
            continue
        try:
            measure(bench, model, log, held_out)
        except ShoalError as error:
            missing = [name for name in names if name not in bench.figures]
            bench.skip(missing, str(error))


if __name__ == "__main__":
    main(
        "bases",
        "Pretrained bases beside each other, where they can be had.",
        run,
        lambda parser: parser.add_argument("--bases", nargs="+", help="hub ids or local folders"),
    )
