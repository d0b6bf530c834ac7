"""A log of many calls on one small machine: made, imported (checked, scrubbed, stored), looked through for duplicates, clustered; and
read as `shoal learn` reads it: each task's calls surveyed, and as many as are learnt from collected, one task after the other.

The log is made from a given one (traces/mixed_log.jsonl.gz) by seeded value substitution: in each copy of a conversation numbers,
names and the rarest words of what people say become others, the same everywhere in the conversation, so that what an answer copies
from its request is still copied. Prompts, tools and closed answers stay. Each step runs in a process of its own, whose wall and CPU
seconds and peak memory are told; looking for duplicates and clustering do not wait for each other and run at once. `--calls` sets how
many (default 100,000; the aim is for 1,000,000); seconds for a million are extrapolated in proportion, and said to be. Training is no
part of it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from _bench import Bench
from pydantic_core import to_json

_LOG = "traces/mixed_log.jsonl.gz"
_MILLION = 1_000_000
#: targets for a million calls, and for the share that has no duplicate
_MOST_S, _MOST_MB, _LEAST_DISTINCT = 900.0, 6144.0, 0.9
#: what runs at once, each step on a core of its own
_STAGES = (("import",), ("duplicates", "cluster"), ("gather",))
_STEPS = tuple(step for steps in _STAGES for step in steps)
#: the aim is for curating and clustering
_BESIDE_THE_AIM = ("gather",)
_ASSIGNMENT = "assignment.json"
_TOKEN = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+")
_SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mo", "nu", "pe", "ri", "so", "tu", "va", "we", "xi", "zo")
#: words said in this share of the calls or fewer may become others
_RARE = 0.002
#: and so many of a last message's words in any case
_RAREST = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="10,000 calls")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="a log in Shoal's format to make the calls from")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="keep the made log and its data folder here")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(_measured(arguments.step, arguments.home, arguments.log)))
        return 0
    bench = Bench("million", arguments)
    log = arguments.log or Path(os.environ.get("SHOAL_BENCH_DATA", arguments.data)) / _LOG
    if not log.is_file():
        bench.skip(["million_curate_s"], f"{log} is not there; see --data")
        return bench.finish()
    calls = 10_000 if arguments.quick else arguments.calls
    with tempfile.TemporaryDirectory(prefix="shoal-million-") as folder:
        kept = arguments.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        run(bench, log, calls, arguments.seed, kept)
    return bench.finish()


def run(bench: Bench, log: Path, calls: int, seed: int, folder: Path) -> None:
    made = folder / "log.jsonl.gz"
    started = time.monotonic()
    with gzip.open(made, "wb", compresslevel=1) as file:
        for line in many_calls(log, calls, seed):
            file.write(line)
    bench.say(f"{calls:,} calls made in {time.monotonic() - started:.0f} s, {made.stat().st_size >> 20} MB")
    seconds, cpu_s, peak = 0.0, 0.0, 0.0
    for steps in _STAGES:
        wall, found = _together(steps, folder / "home", made)
        used = sum(f["cpu_s"] for f in found.values())
        if steps != _BESIDE_THE_AIM:
            seconds += wall
            cpu_s += used
        peak = max(peak, sum(f["peak_mb"] for f in found.values()))
        for step, its in found.items():
            _tell(bench, step, its, calls)
    bench.figure("peak_mb", peak, "MB, of steps that run at once together", at_most=_MOST_MB)
    if calls == _MILLION:
        bench.figure("million_curate_s", seconds, "s", at_most=_MOST_S)
    else:
        bench.figure("curate_s", seconds, f"s for {calls:,} calls")
        bench.figure("million_extrapolated_cpu_s", cpu_s * _MILLION / calls, "s of CPU, in proportion")
        bench.figure(
            "million_extrapolated_s", seconds * _MILLION / calls, "s, in proportion", at_most=_MOST_S
        )
        bench.skip(["million_curate_s"], f"--calls {calls} is no million; see million_extrapolated_s")


def _together(steps: tuple[str, ...], home: Path, log: Path) -> tuple[float, dict[str, Any]]:
    """Wall seconds of steps that do not wait for each other, and what each says of itself."""
    started = time.monotonic()
    processes = {
        step: subprocess.Popen(
            [sys.executable, __file__, "--step", step, "--home", str(home), "--log", str(log)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for step in steps
    }
    said = {step: process.communicate()[0] for step, process in processes.items()}
    wall = time.monotonic() - started
    for step, process in processes.items():
        if process.returncode:
            raise SystemExit(f"{step} failed with exit code {process.returncode}")
    return wall, {step: json.loads(text) for step, text in said.items()}


def _tell(bench: Bench, step: str, found: Mapping[str, Any], calls: int) -> None:
    bench.figure(f"{step}_s", found["seconds"], f"s for {calls:,} calls")
    bench.figure(f"{step}_cpu_s", found["cpu_s"], f"s of CPU for {calls:,} calls")
    bench.figure(f"{step}_peak_mb", found["peak_mb"], "MB")
    for name, value in found["counts"].items():
        bench.figure(name, value, "calls")
    if step == "duplicates":
        repeats = found["counts"]["exact_duplicates"] + found["counts"]["near_duplicates"]
        bench.figure("distinct_share", 1 - repeats / calls, "share", at_least=_LEAST_DISTINCT)


# -- the steps


def _measured(step: str, home: Path, log: Path) -> dict[str, Any]:
    started = time.monotonic()
    counts = {"import": _import, "duplicates": _duplicates, "cluster": _cluster, "gather": _gather}[step](
        home, log
    )
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": time.monotonic() - started,
        "cpu_s": sum(u.ru_utime + u.ru_stime for u in used),
        "peak_mb": sum(u.ru_maxrss for u in used) / 1024,
        "counts": counts,
    }


def _store(home: Path) -> Any:
    from shoal.agents.traces.store import ParquetTraceStore
    from shoal.home import Home

    return ParquetTraceStore(Home(home).create())


def _import(home: Path, log: Path) -> dict[str, int]:
    from shoal.agents.traces.importing import import_files

    store = _store(home)
    report = import_files([log], store=store)
    return {
        "imported": report.kept,
        "skipped": report.skipped_count,
        "replaced": sum(store.scrubbed.values()),
    }


def _duplicates(home: Path, log: Path) -> dict[str, int]:
    from shoal.agents.contract.loss import canonical_tool_calls
    from shoal.agents.curation.duplicates import Said, find_duplicates

    def said() -> Iterator[Said]:
        for trace in _store(home).scan():
            answer = trace.answer
            text = canonical_tool_calls(answer.tool_calls) if answer.tool_calls else answer.content or ""
            yield Said.of(trace.chat, text)

    found = find_duplicates(said(), one_answer=False)
    return {"exact_duplicates": len(found.exact), "near_duplicates": len(found.near)}


def _cluster(home: Path, log: Path) -> dict[str, int]:
    from shoal.agents.learning.learning_log import LearningLog
    from shoal.agents.tasks.finder import find_tasks

    found = find_tasks(LearningLog(_store(home)), known=(), seed=0, now=0.0)
    (home / _ASSIGNMENT).write_bytes(to_json(found.assignment))
    return {
        "tasks": len(found.tasks),
        "unclustered": sum(task_id is None for task_id in found.assignment.values()),
    }


def _gather(home: Path, log: Path) -> dict[str, int]:
    from shoal.agents.learning.learning_log import LearningLog
    from shoal.agents.learning.survey import survey_log
    from shoal.config import Config

    traces = LearningLog(_store(home))
    assignment = json.loads((home / _ASSIGNMENT).read_bytes())
    most = Config().learning.max_calls_per_task
    survey = survey_log(traces, assignment, lambda request: None, seed=0, most=most)
    sizes = [len(m.examples) + len(m.calling) for m in (survey.material(traces, t) for t in survey.tasks)]
    return {"learnt_from": sum(sizes), "largest_task": max(sizes)}


# -- making calls


def many_calls(log: Path, count: int, seed: int) -> Iterator[bytes]:
    """Lines of Shoal's format, as many as asked for: copy after copy of the log, each with other values."""
    with gzip.open(log, "rb") if log.suffix == ".gz" else log.open("rb") as file:
        lines = file.readlines()
    counts = _word_counts(lines)
    for number in range(count):
        copy, place = divmod(number, len(lines))
        yield _varied(json.loads(lines[place]), copy, seed, counts, _RARE * len(lines))


def _varied(call: dict[str, Any], copy: int, seed: int, counts: Mapping[str, int], most: float) -> bytes:
    request = call["request"]
    metadata = request.get("metadata") or {}
    conversation = metadata.get("conversation_id")
    key = f"{seed}/{copy}/{conversation or call['id']}"
    kept = _kept_words(call["response"])
    said = set(_TOKEN.findall(_last_text(request).lower())) - kept
    # words that few calls say, and of what was said last the rarest ones anyway, so that no copy says the same
    rarest = sorted((word for word in said if not word.isdigit()), key=lambda word: (counts[word], word))
    words = Words(key, lambda word: 0 < counts[word] <= most or word in rarest[:_RAREST], kept)
    for message in (*request["messages"], *(choice["message"] for choice in call["response"]["choices"])):
        if message["role"] not in ("system", "developer"):
            words.change(message)
    if conversation is not None:
        request["metadata"] = {**metadata, "conversation_id": f"{conversation}-{copy}"}
    call["id"] = f"{call['id']}-{copy}"
    call["timestamp"] = float(call.get("timestamp") or 0.0) + copy
    return to_json(call) + b"\n"


class Words:
    """One conversation's substitution: the same word always becomes the same other word."""

    def __init__(self, key: str, is_rare: Callable[[str], bool], kept: frozenset[str]) -> None:
        self._key = key
        self._is_rare = is_rare
        self._kept = kept
        self._given: dict[str, str] = {}

    def change(self, message: dict[str, Any]) -> None:
        if isinstance(message.get("content"), str):
            message["content"] = _TOKEN.sub(self._other, message["content"])
        for call in message.get("tool_calls") or ():
            function = call["function"]
            arguments = function.get("arguments")
            if isinstance(arguments, str):
                # only values: the names of arguments are the tool's
                values = json.loads(arguments or "{}")
                function["arguments"] = json.dumps({name: self._value(v) for name, v in values.items()})

    def _value(self, value: Any) -> Any:
        return _TOKEN.sub(self._other, value) if isinstance(value, str) else value

    def _other(self, match: re.Match[str]) -> str:
        token = match.group()
        if token not in self._given:
            self._given[token] = self._made(token)
        return self._given[token]

    def _made(self, token: str) -> str:
        rng = random.Random(hashlib.blake2b(f"{self._key}/{token.lower()}".encode(), digest_size=8).digest())
        if token.isdigit():
            # a small number may be a choice or a count, and four digits a year
            if len(token) < 3:
                return token
            return str(rng.randint(1, 9)) + "".join(str(rng.randrange(10)) for _ in token[1:])
        if token.lower() in self._kept or not self._is_rare(token.lower()):
            return token
        word = "".join(rng.choice(_SYLLABLES) for _ in range(max(2, len(token) // 2)))
        return word.capitalize() if token[0].isupper() else word


def _kept_words(response: dict[str, Any]) -> frozenset[str]:
    """The words of an answer that is one of a closed set: a single word, as labels are."""
    content = response["choices"][0]["message"].get("content")
    is_label = isinstance(content, str) and len(content.split()) <= 2
    return frozenset(t.lower() for t in _TOKEN.findall(content)) if is_label else frozenset()


def _last_text(request: dict[str, Any]) -> str:
    texts = [
        m["content"] for m in request["messages"] if m["role"] == "user" and isinstance(m.get("content"), str)
    ]
    return texts[-1] if texts else ""


def _word_counts(lines: list[bytes]) -> Counter[str]:
    """In how many calls each word, in lower case, is said."""
    counts: Counter[str] = Counter()
    for line in lines:
        messages = json.loads(line)["request"]["messages"]
        said = [m["content"] for m in messages if m["role"] != "system" and isinstance(m.get("content"), str)]
        counts.update({t.lower() for text in said for t in _TOKEN.findall(text)})
    return counts


if __name__ == "__main__":
    sys.exit(main())
