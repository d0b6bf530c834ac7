"""Shoal's label specialists beside TRACER on the same calls: what each answers by itself, and how often that is right.

TRACER ("trace-based adaptive cost-efficient routing", github.com/adrida/tracer, MIT) is the package `tracer-llm`. It wants an
older numpy than Shoal, so it runs in an environment of its own: `SHOAL_TRACER_PYTHON` names one's Python, else one is made in a
temporary folder with `pip install tracer-llm==0.3.3`.

Both are asked for at most 5% wrong: Shoal by its contract (alpha = delta = 0.05), TRACER by `target_teacher_agreement=0.95`. Both get
every call of the log and split it themselves, and both are measured on the held-out calls. TRACER reads embeddings: those of
all-MiniLM-L6-v2 where the extra `embeddings` is installed, else Shoal's hashed n-grams; where a task has several system prompts, the
prompt's embedding stands beside the input's, since the prompt decides which labels there are. `forced` is the share right where every
call must be answered, with abstentions of Shoal counted wrong; TRACER's is its best surrogate's own answer. TRACER's gradient boosting is left
out of its sweep, as its documentation advises for many labels.

Data: `traces/mixed_log.jsonl.gz`, `traces/mixed_eval.jsonl.gz` with their `.labels.csv`, made from BANKING77 (CC-BY-4.0) and
Schema-Guided Dialogue (CC-BY-SA-4.0). The labels only pick the calls of the two tasks.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Bench, main, sha256
from _tasks import read_tasks
from loop import KNOWN, shoal

from shoal.agents.contract.figures import paired, share
from shoal.agents.learning.embedders import MINILM, NGRAMS, load_embedder
from shoal.errors import ConfigError

TASKS = ("bank_intent", "dialogue_intent")
PACKAGE = "tracer-llm==0.3.3"
TIME_LIMIT_MIN = 10
#: runs where TRACER is installed: fits, routes the held-out calls, and has its first surrogate answer all of them
SCRIPT = """
import json, sys, pathlib
import numpy as np
import tracer
from tracer.config import FitConfig
folder = pathlib.Path(sys.argv[1])
config = FitConfig(target_teacher_agreement=0.95, frontier_targets=(0.95,), verbose=True, skip_candidates=("gbt",))
result = tracer.fit(folder / "train.jsonl", folder / "fitted", embeddings=np.load(folder / "train.npy"), config=config)
held_out = np.load(folder / "held_out.npy")
out = {"method": result.manifest.selected_method, "notes": result.notes, "handled": [None] * len(held_out)}
if result.manifest.selected_method is not None:
    router = tracer.load_router(folder / "fitted")
    out["handled"] = router.predict_batch(held_out)["labels"]
    surrogate = router._stages[0]["clf"]
    out["forced"] = [router._label_space[int(i)] for i in surrogate.predict(held_out)]
    out["surrogate"] = router._stages[0]["model_name"]
(folder / "said.json").write_text(json.dumps(out))
"""


@dataclass(frozen=True)
class Call:
    id: str
    line: str
    system: str
    user: str
    label: str


def read_calls(path: Path, quick: bool) -> dict[str, list[Call]]:
    """The calls of each of the two tasks, in the order of the file; `quick` takes every second."""
    sites = read_tasks(path.with_name(path.name.replace(".jsonl.gz", ".labels.csv")))
    calls: dict[str, list[Call]] = {name: [] for name in TASKS}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if sites[row["id"]] not in calls:
                continue
            said = {m["role"]: m["content"] for m in row["request"]["messages"]}
            label = row["response"]["choices"][0]["message"]["content"].strip()
            call = Call(row["id"], line, said.get("system", ""), said["user"], label)
            calls[sites[row["id"]]].append(call)
    return {name: own[:: 2 if quick else 1] for name, own in calls.items()}


def tracer_python(folder: Path) -> str:
    """A Python that has TRACER. Raises OSError or CalledProcessError where it cannot be installed."""
    if named := os.environ.get("SHOAL_TRACER_PYTHON"):
        return named
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, stdout=sys.stderr)
    subprocess.run([python, "-m", "pip", "install", "-q", PACKAGE], check=True, stdout=sys.stderr)
    return python


def vectors(calls: Sequence[Call], embedder: str, with_prompt: bool) -> np.ndarray:
    embed = load_embedder(embedder).embed
    found = embed([c.user for c in calls])
    if not with_prompt:
        return found
    prompts = sorted({c.system for c in calls})
    of = dict(zip(prompts, embed(prompts), strict=True))
    return np.hstack([found, np.stack([of[c.system] for c in calls])])


def run_tracer(
    python: str, folder: Path, log: Sequence[Call], held_out: Sequence[Call], embedder: str
) -> tuple[dict[str, Any], float]:
    """What TRACER says of the held-out calls, and the seconds that its fit and answers took, without embedding."""
    folder.mkdir()
    with_prompt = len({c.system for c in log}) > 1
    np.save(folder / "train.npy", vectors(log, embedder, with_prompt))
    np.save(folder / "held_out.npy", vectors(held_out, embedder, with_prompt))
    rows = [json.dumps({"id": c.id, "input": c.user, "teacher": c.label}) for c in log]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    started = time.monotonic()
    subprocess.run([python, "-I", "-c", SCRIPT, str(folder)], check=True, stdout=sys.stderr)
    said: dict[str, Any] = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    return said, time.monotonic() - started


def run_shoal(
    folder: Path, log: Mapping[str, Sequence[Call]], held_out: Mapping[str, Sequence[Call]], embedder: str
) -> tuple[dict[str, dict[str, Any]], float]:
    """For each held-out call the line of `shoal eval --out`, by id, and the seconds that learning took."""
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "shoal.yaml").write_text(f"learning: {{embedder: {embedder}}}\n", encoding="utf-8")
    files = []
    for name, calls in (("log", log), ("held_out", held_out)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(c.line for task in TASKS for c in calls[task]), encoding="utf-8")
        files.append(path)
    shoal("traces", "import", str(files[0]), "--json", home=home)
    _, seconds = shoal("learn", "--time-limit", str(TIME_LIMIT_MIN), "--json", home=home)
    shoal("eval", str(files[1]), "--out", str(folder / "said.jsonl"), "--json", home=home)
    lines = (folder / "said.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}, seconds


def text_of(message: Mapping[str, Any] | None) -> str | None:
    return None if message is None else str(message["content"]).strip()


def publish(
    bench: Bench, who: str, task: str, given: Sequence[str | None], calls: Sequence[Call]
) -> list[bool]:
    """Figures of the calls that were answered; which of all were answered rightly."""
    right = [g == c.label for g, c in zip(given, calls, strict=True)]
    answered = sum(g is not None for g in given)
    bench.figure(f"{who}_{task}_coverage", answered / len(calls), "share answered")
    if answered:
        figure = share(sum(right), answered)
        unit = f"share right of answered (95%: {figure.low:.3f} to {figure.high:.3f})"
        bench.figure(f"{who}_{task}_right", figure.value, unit)
    return right


def compare(
    bench: Bench,
    task: str,
    calls: Sequence[Call],
    tracer: Mapping[str, Any],
    ours: Mapping[str, Any],
    who: str,
) -> None:
    publish(bench, "tracer", task, tracer["handled"], calls)
    publish(bench, who, task, [text_of(ours[c.id]["answer"]) for c in calls], calls)
    if not any(ours[c.id]["raw"] for c in calls):
        names = [f"{who}_{task}_forced", f"{who}_{task}_beside_tracer_p"]
        bench.skip(names, "Shoal trained no version")
        return
    forced = [text_of(ours[c.id]["raw"]) == c.label for c in calls]
    bench.figure(f"{who}_{task}_forced", sum(forced) / len(calls), "share right of all")
    if "forced" not in tracer:
        bench.skip([f"tracer_{task}_forced"], f"TRACER deploys nothing for it: {' '.join(tracer['notes'])}")
        return
    theirs = [g == c.label for g, c in zip(tracer["forced"], calls, strict=True)]
    bench.figure(f"tracer_{task}_forced", sum(theirs) / len(calls), "share right of all")
    test = paired(forced, theirs)
    bench.figure(
        f"{who}_{task}_beside_tracer_p",
        test.p,
        f"p (McNemar; only {who} right {test.wins}, only TRACER right {test.losses})",
    )


def run(bench: Bench) -> None:
    names = [f"tracer_{task}_{what}" for task in TASKS for what in ("coverage", "right", "forced")]
    log_file, held_out_file = (bench.arguments.data / "traces" / name for name in KNOWN)
    if not log_file.is_file() or not held_out_file.is_file():
        bench.skip(names, f"no {log_file} or {held_out_file.name}; name the folder with --data")
        return
    for path in (log_file, held_out_file):
        if sha256(path) != KNOWN[path.name]:
            bench.say(f"{path.name} is not the file of the published figures (SHA-256 differs)")
    quick = bench.arguments.quick
    log, held_out = read_calls(log_file, quick), read_calls(held_out_file, quick)
    embedders = [NGRAMS]
    try:
        load_embedder(MINILM)
        embedders.append(MINILM)
    except ConfigError as error:
        bench.skip([f"shoal_minilm_{task}_forced" for task in TASKS], str(error))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        folder = Path(temporary)
        try:
            python = tracer_python(folder)
            bench.say(f"TRACER ({PACKAGE}) reads embeddings of {embedders[-1]}")
            theirs = {}
            for task in TASKS:
                theirs[task], seconds = run_tracer(
                    python, folder / task, log[task], held_out[task], embedders[-1]
                )
                bench.figure(f"tracer_{task}_fit_seconds", seconds, "s, without embedding")
        except (OSError, subprocess.CalledProcessError) as error:
            bench.skip(names, f"pip install {PACKAGE} or its run failed: {error}")
            return
        for embedder in embedders:
            who = "shoal" if embedder == NGRAMS else f"shoal_{embedder}"
            ours, seconds = run_shoal(folder / embedder, log, held_out, embedder)
            bench.figure(f"{who}_learn_seconds", seconds, "s, both tasks")
            for task in TASKS:
                compare(bench, task, held_out[task], theirs[task], ours, who)


if __name__ == "__main__":
    main("tracer", "Shoal's label specialists beside TRACER on the same calls.", run)
