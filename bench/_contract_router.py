"""How long a router decision takes with a thousand tasks, and what the router weighs. Used by `bench/contract.py`.

The tasks are made from real call-sites (`traces/mixed_log.jsonl.gz`, `traces/airline_gpt4o_log.jsonl.gz`) by seeded value substitution:
each copy of a call-site has other words in prompts, inputs and histories, at their real lengths, and the task finder finds its tasks
anew. Requests are those of the evaluation logs under the same substitution: once with the copy's prompt, so that the fingerprint
decides, and once with a prompt that no task had and that was never seen before, so that nothing is remembered of it and its text
decides (or rejects). The router runs in a process of its own, whose whole resident memory is told.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _bench import Bench, main
from million import Words

_SOURCES = (
    ("traces/mixed_log.jsonl.gz", "traces/mixed_eval.jsonl.gz"),
    ("traces/airline_gpt4o_log.jsonl.gz", "traces/airline_gpt4o_eval.jsonl.gz"),
)
_TASKS, _QUICK_TASKS = 1000, 100
#: calls that a copy of a call-site is made of: enough for the finder to see a task
_CALLS = 40
_REQUESTS = 2000
#: calls of the log that tasks are found in where words are to tell them
_LEARNT = 5000
#: of a copy's words so many are others
_OTHERS = 0.5
_MOST_FINGERPRINT_MS, _MOST_TEXT_MS, _MOST_MB = 0.3, 3.0, 500.0
_FIGURES = ("decide_fingerprint_p50_ms", "decide_text_p50_ms", "decide_memory_mb")


def measure(bench: Bench, data: Path) -> None:
    """Add the figures; skip them where the logs are not there."""
    _measure_words(bench, data)
    _measure_time(bench, data)


def _measure_words(bench: Bench, data: Path) -> None:
    """Calls of known call-sites without their system prompt, and calls of an agent that was never seen: what the words alone tell.

    The labels score only.
    """
    log, held_out = (data / name for name in _SOURCES[0])
    foreign = data / _SOURCES[1][1]
    names = ["words_right", "words_wrong", "words_rejected", "foreign_rejected", "words_answered"]
    if not (log.is_file() and held_out.is_file() and foreign.is_file()):
        bench.skip(names, f"{log} is not there; see --data")
        return
    from _tasks import read_sites  # heavy, and not to be counted as the router's memory

    from shoal.agents.registry.records import VersionState
    from shoal.agents.routing.router import Router
    from shoal.agents.routing.snapshot import Performer, Route, Snapshot
    from shoal.agents.tasks.finder import find_tasks
    from shoal.agents.traces.chat import ChatRequest
    from shoal.agents.traces.trace import Trace

    truth = {**read_sites(log), **read_sites(held_out)}
    found = find_tasks([Trace.from_dict(row) for row in _sampled(log, _LEARNT)], known=(), seed=0, now=0.0)
    site_of = {
        task.name: Counter(truth[i] for i, of in found.assignment.items() if of == task.id).most_common(1)[0][
            0
        ]
        for task in found.tasks
    }
    always = Performer(key="x@1", number=1, state=VersionState.SERVING, threshold=0.0, share=1.0)
    routes = [
        Route(task_id=t.id, name=t.name, output_kind=t.output_kind, match=t.match, performers=[always])
        for t in found.tasks
    ]
    router = Router(Snapshot(epoch=1, routes=routes))
    counts: Counter[Any] = Counter()
    for row in [*_sampled(held_out, _REQUESTS), *_sampled(foreign, _REQUESTS // 4)]:
        bare = [m for m in row["request"]["messages"] if m["role"] not in ("system", "developer")]
        decision = router.decide_logged(ChatRequest(body={**row["request"], "messages": bare}))
        counts["answered"] += decision.performer is not None
        kind = "words" if row["id"] in truth else "foreign"
        counts[kind] += 1
        told = site_of.get(decision.task_name)
        counts[
            kind, "rejected" if told is None else "right" if told == truth.get(row["id"]) else "wrong"
        ] += 1
    for name in ("right", "wrong", "rejected"):
        bench.figure(
            f"words_{name}",
            counts["words", name] / counts["words"],
            f"of {counts['words']} calls without a prompt",
        )
    bench.figure(
        "foreign_rejected", counts["foreign", "rejected"] / counts["foreign"], f"of {counts['foreign']} calls"
    )
    bench.figure("words_answered", counts["answered"], "calls put to a specialist by their words", at_most=0)


def _measure_time(bench: Bench, data: Path) -> None:
    missing = [name for pair in _SOURCES for name in pair if not (data / name).is_file()]
    if missing:
        bench.skip(list(_FIGURES), f"{data / missing[0]} is not there; see --data")
        return
    wanted = _QUICK_TASKS if bench.arguments.quick else _TASKS
    sites = [site for log, _ in _SOURCES for site in _call_sites(data / log)]
    asked = [line["request"] for _, log in _SOURCES for line in _sampled(data / log, _REQUESTS // 2)]
    with tempfile.TemporaryDirectory(prefix="shoal-router-") as name:
        folder = Path(name)
        started = time.monotonic()
        count = _write_snapshot(folder / "snapshot", sites, wanted)
        bench.say(f"{count} tasks made in {time.monotonic() - started:.0f} s")
        for kind, prompt_copy in (("fingerprint", 0), ("text", wanted)):
            with (folder / kind).open("w", encoding="utf-8") as file:
                for n, request in enumerate(asked):
                    copy = n % max(1, wanted // len(sites))
                    file.write(json.dumps(_request(request, copy, copy + prompt_copy)) + "\n")
        command = [sys.executable, __file__, "--decide", name]
        said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    bench.figure("decide_tasks", count, "tasks")
    for kind, most in (("fingerprint", _MOST_FINGERPRINT_MS), ("text", _MOST_TEXT_MS)):
        found = said[kind]
        bench.figure(f"decide_{kind}_p50_ms", found["p50_ms"], "ms", at_most=most)
        bench.figure(f"decide_{kind}_p99_ms", found["p99_ms"], "ms")
        bench.figure(
            f"decide_{kind}_cpu_p99_ms", found["cpu_p99_ms"], "ms of CPU, whatever else the machine does"
        )
        bench.say(
            f"{kind}: how decided {found['how']}, characters of a request at the median {found['chars']}"
        )
    bench.figure("decide_memory_mb", said["memory_mb"], "MB resident", at_most=_MOST_MB)
    bench.figure("decide_router_s", said["router_s"], "s to make a router of a snapshot")


# -- making tasks and requests


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _call_sites(log: Path) -> list[list[dict[str, Any]]]:
    """Calls that ask for the same thing: of one client, with or without tools, with a prompt that begins alike."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in _lines(log):
        request = line["request"]
        system = " ".join(m["content"] for m in request["messages"] if m["role"] == "system")
        key = (str(line.get("client_id")), str(bool(request.get("tools"))), system[:20])
        if len(found[key]) < 20 * _CALLS:
            found[key].append(line)
    return [lines for lines in found.values() if len(lines) >= _CALLS]


def _sampled(log: Path, count: int) -> list[dict[str, Any]]:
    lines = list(_lines(log))
    return random.Random(0).sample(lines, min(count, len(lines)))


def _write_snapshot(path: Path, sites: Sequence[Sequence[dict[str, Any]]], wanted: int) -> int:
    """At least `wanted` tasks, each served by a version."""
    import msgpack

    from shoal.agents.registry.records import TaskId, VersionState
    from shoal.agents.routing.snapshot import Performer, Route, Snapshot
    from shoal.agents.tasks.calls import read_call
    from shoal.agents.tasks.features import PromptMemo
    from shoal.agents.tasks.finder import find_tasks
    from shoal.agents.tasks.match_data import with_likeness
    from shoal.agents.traces.trace import Trace

    tasks, calls, memo = [], [], PromptMemo()
    for copy in itertools.count():
        for site in sites:
            lines = random.Random(copy).sample(list(site), _CALLS)
            traces = [
                Trace.from_dict({**line, "request": _request(line["request"], copy, copy)}) for line in lines
            ]
            for task in find_tasks(traces, known=(), seed=0, now=0.0).tasks:
                name = f"task-{len(tasks)}"
                tasks.append(replace(task, id=TaskId(name), name=name))
            calls += [read_call(trace, memo) for trace in traces[::4]]
        if len(tasks) >= wanted:
            break
    routes = [
        Route(
            task_id=task.id,
            name=task.name,
            output_kind=task.output_kind,
            match=task.match,
            performers=(
                Performer(key=f"{task.id}@1", number=1, state=VersionState.SERVING, threshold=0.5, share=1.0),
            ),
        )
        for task in with_likeness(tasks[:wanted], calls)
    ]
    path.write_bytes(msgpack.packb(Snapshot(epoch=1, routes=routes).to_dict()))
    return len(routes)


def _request(request: Mapping[str, Any], copy: int, prompt_copy: int) -> dict[str, Any]:
    """The request in the words of a copy of its call-site; its system prompt in those of `prompt_copy`."""
    made: dict[str, Any] = json.loads(json.dumps(request))
    for message in made["messages"]:
        if isinstance(message.get("content"), str):
            _words_of(prompt_copy if message["role"] == "system" else copy).change(message)
    return made


@functools.cache
def _words_of(copy: int) -> Words:
    """The same word becomes the same other one everywhere in a copy."""
    key = f"copy/{copy}"
    return Words(key, lambda word: zlib.crc32(f"{key}/{word}".encode()) < _OTHERS * 2**32, frozenset())


# -- the measured process


def _decide(folder: Path) -> dict[str, Any]:
    import msgpack

    from shoal.agents.routing.router import Router
    from shoal.agents.routing.snapshot import Snapshot
    from shoal.agents.traces.chat import ChatRequest

    snapshot = Snapshot.from_dict(msgpack.unpackb((folder / "snapshot").read_bytes()))
    started = time.perf_counter()
    router = Router(snapshot)
    said: dict[str, Any] = {"router_s": time.perf_counter() - started}
    for kind in ("fingerprint", "text"):
        times, cpu, chars = [], [], []
        how: dict[str, int] = defaultdict(int)
        with (folder / kind).open(encoding="utf-8") as file:
            for line in file:
                request = ChatRequest(body=json.loads(line))
                worked = time.thread_time()
                started = time.perf_counter()
                decision = router.decide(request, generalist_model=None, any_model=True)
                times.append(1000 * (time.perf_counter() - started))
                cpu.append(1000 * (time.thread_time() - worked))
                chars.append(len(line))
                how[decision.how] += 1
        times.sort()
        cpu.sort()
        said[kind] = {
            "p50_ms": times[len(times) // 2],
            "p99_ms": times[int(0.99 * len(times))],
            "cpu_p99_ms": cpu[int(0.99 * len(cpu))],
            "chars": sorted(chars)[len(chars) // 2],
            "how": dict(how),
        }
    status = Path("/proc/self/status").read_text(encoding="ascii")
    said["memory_mb"] = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return said


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decide"]:
        print(json.dumps(_decide(Path(sys.argv[2]))))
    else:
        main("contract_router", __doc__, lambda bench: measure(bench, bench.arguments.data))
