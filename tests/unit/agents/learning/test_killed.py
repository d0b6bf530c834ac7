"""A learning run that dies, `kill -9`, at random moments and goes on ends as one that nobody disturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.learning.folder import verify
from shoal.agents.registry.store import SqlRegistry
from shoal.home import Home

#: imported once, for all processes that learn
_PRELOAD = [
    "torch",
    "transformers",
    "shoal.agents.learning.learn",
    "shoal.agents.learning.micro_lm",
    "shoal.agents.learning.classifier",
    "shoal.agents.traces.memory",
    "shoal.serve.engines.micro_lm",
    "shoal.serve.engines.classifier",
]
TEXTS, LABELS = "Tell the manager about this figure.", "Name the intent of this message."


def _rows() -> list[tuple[str, str, str]]:
    rng = random.Random(5)
    rows = []
    for n in range(230):
        region, growth = rng.choice(["EMEA", "APAC", "Nordics", "Iberia"]), rng.choice([-9, -4, 3, 8, 15])
        verb = "grew" if growth > 0 else "fell"
        shop = f"{rng.choice(['Elm', 'Oak', 'Fir'])} {n}"
        said = rng.choice(
            [f"{shop} in {region} {verb} {abs(growth)}%.", f"{region}: {shop} {verb} {abs(growth)}%."]
        )
        rows.append((TEXTS, json.dumps({"region": region, "growth": growth, "shop": shop}), said))
        word, intent = rng.choice([("lost", "card"), ("late", "transfer"), ("secret", "pin")])
        rows.append((LABELS, f"my {word} thing number {n} {rng.choice('abcdef')} please", intent))
    return rows


def _learn(home: Path, said: Connection) -> None:
    """One learning run in a process of its own, on a clock that stands still; tells how far it is."""
    import torch

    from shoal.agents.learning import micro_lm_run
    from shoal.agents.learning.learn import learn
    from shoal.agents.traces.memory import MemoryTraceStore
    from shoal.agents.traces.trace import Trace, TraceId
    from shoal.config import parse_config
    from shoal.serve.engines import load

    class Still:
        def now(self) -> float:
            return 1_700_000_000.0

        def monotonic(self) -> float:
            return 0.0

    torch.set_num_threads(1)
    # few steps: what matters is that they are the same ones
    micro_lm_run.NOMINAL_TOKENS_PER_S = 2_000
    store = MemoryTraceStore(
        Trace(
            id=TraceId(f"t{n}"),
            request={
                "model": "big",
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            },
            response={
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
                ]
            },
            timestamp=1_700_000_000.0,
        )
        for n, (system, user, answer) in enumerate(_rows())
    )
    report = learn(
        store=store,
        registry=SqlRegistry(Home(home).create().database),
        home=Home(home),
        config=parse_config({"learning": {"min_calls": 50}}, source="a test"),
        clock=Still(),
        loader=load,
        seed=1,
        time_limit_min=1.0,
        progress=lambda fraction, text: said.send(fraction),
    )
    said.send({task.name: task.verdict for task in report.tasks})


def _outcome(home: Path) -> dict[str, Any]:
    registry = SqlRegistry(Home(home).database)
    return {
        "tasks": sorted((t.id, t.name, str(t.output_kind), t.reason) for t in registry.tasks()),
        "versions": sorted((v.key, v.kind, str(v.state), v.threshold, v.sha256) for v in registry.versions()),
    }


def _check(home: Path) -> None:
    """Whatever moment it died at: what is registered is there and whole."""
    if Home(home).database.exists():
        for version in SqlRegistry(Home(home).database).versions():
            verify(Home(home).models / version.folder, version.sha256)


def _run(home: Path, until: float) -> dict[str, str] | None:
    """Learn until the run says that it is so far, then kill it; its verdicts where it ended before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_learn, args=(home, its))
    process.start()
    its.close()
    verdicts: dict[str, str] | None = None
    try:
        while True:
            said = mine.recv()
            if isinstance(said, dict):
                verdicts = said
            elif said >= until and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
                break
    except EOFError:
        pass
    process.join(60)
    mine.close()
    _check(home)
    return verdicts


@pytest.mark.timeout(240)
def test_a_run_killed_three_times_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", 2.0)
    assert whole and set(whole.values()) <= {"pass", "fail"} and len(whole) == 2, whole
    chance = random.Random(11)
    for _ in range(3):
        assert _run(tmp_path / "killed", chance.uniform(0.1, 0.9)) is None
    verdicts = _run(tmp_path / "killed", 2.0)
    assert verdicts is not None
    assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "work" / "training").glob("*"))
    again = _run(tmp_path / "killed", 2.0)
    assert again is not None and set(again.values()) == {"unchanged"}
