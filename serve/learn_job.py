"""One learning run of a site: a program of its own, at the lowest priority, on one core.

Reads a job as JSON on standard input (`run`, `home`, `config`) and writes JSON lines `{"fraction": ..., "text": ...}`. What became of the
run it writes into the database itself, so that it does not matter whether anybody is there to hear it. SIGTERM ends it as soon as what it
has is safe; the run then waits for another process, which goes on from there, unless it was to be stopped.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.agents.curation.recognition import recognition_of
from shoal.config import Config
from shoal.errors import ShoalError
from shoal.home import Home
from shoal.serve.priority import keep_to_one_core, lowest_priority

log = logging.getLogger("shoal.learning")


def main() -> int:
    # before anything large is loaded
    lowest_priority()
    keep_to_one_core()
    told_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told_to_end.append(number))
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    job = json.load(sys.stdin)
    home, config = Home(Path(job["home"])), Config.model_validate(job["config"])

    import psutil

    from shoal.agents.feedback.learning_runs import SqlLearningRuns
    from shoal.agents.registry.store import SqlRegistry

    registry = SqlRegistry(home.database)
    try:
        runs = SqlLearningRuns(registry.database)
        run_id = str(job["run"])
        if not runs.claim(run_id, psutil.Process()):
            log.info("learning run %s is another process's, or has ended", run_id)
            return 0
        try:
            report = _learn(home, config, registry, runs.get(run_id).tasks, told_to_end)
        except ShoalError as error:
            log.error("learning run %s failed: %s", run_id, error)
            runs.finish(run_id, "failed", {"error": str(error)}, at=time.time())
            return 1
        except Exception as error:
            log.exception("learning run %s failed", run_id)
            why = f"{type(error).__name__}: {error}; see logs/learning.log"
            runs.finish(run_id, "failed", {"error": why}, at=time.time())
            return 1
        if not report["interrupted"]:
            runs.finish(run_id, "done", report, at=time.time())
        elif runs.get(run_id).state == "stopping":
            runs.finish(run_id, "stopped", report, at=time.time())
        else:
            runs.release(run_id)
        return 0
    finally:
        registry.close()


def _learn(
    home: Home, config: Config, registry: Any, tasks: tuple[str, ...], told_to_end: list[int]
) -> dict[str, Any]:
    from shoal.agents.feedback.expenses import SqlExpenses
    from shoal.agents.learning.learn import learn
    from shoal.agents.ports import EngineLoader
    from shoal.agents.traces.compactor import compact
    from shoal.agents.traces.store import ParquetTraceStore
    from shoal.nodes.site_key import load_or_create_key
    from shoal.nodes.spool import SystemClock
    from shoal.serve.advisers import second_opinions
    from shoal.serve.engines import load
    from shoal.serve.training import training

    store = ParquetTraceStore(home, recognisers=recognition_of(config.privacy))
    # read first: what it is about may still be in the spool, and is readable after
    feedback = registry.feedback()
    compact(home, load_or_create_key(home.key), store)
    loader: EngineLoader = load
    with training(home, config) as executor:
        report: Mapping[str, Any] = learn(
            store=store,
            registry=registry,
            home=home,
            config=config,
            clock=SystemClock(),
            loader=loader,
            tasks=tasks or None,
            feedback=feedback,
            progress=_say,
            stopped=lambda: bool(told_to_end),
            opinions=second_opinions(config),
            executor=executor,
            spend=SqlExpenses(registry.database).add,
        ).to_dict()
    return dict(json.loads(json.dumps(report, default=str)))


def _say(fraction: float, text: str) -> None:
    sys.stdout.write(json.dumps({"fraction": round(fraction, 4), "text": text}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
