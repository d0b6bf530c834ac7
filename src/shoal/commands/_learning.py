"""Carries out `learn`, `eval` and `explain` on a data folder: opens what they need, hands it in, shows progress."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shoal.agents.feedback.accounts import Rates, price_of
from shoal.agents.feedback.expenses import SqlExpenses
from shoal.agents.feedback.learning_runs import BY_HAND, SqlLearningRuns
from shoal.agents.learning.evaluate import Loaded, evaluate, todays_snapshot, todays_versions
from shoal.agents.learning.learn import learn
from shoal.agents.ports import EngineLoader
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.explain import explain, nearest_calls
from shoal.agents.routing.router import Router
from shoal.agents.traces.chat import parse_chat_request
from shoal.agents.traces.importing import import_files
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.commands._shared import err
from shoal.commands._stores import open_registry, open_traces
from shoal.config import Config, GeneralistConfig
from shoal.errors import DataError, UsageError
from shoal.home import Home
from shoal.nodes.spool import SystemClock
from shoal.serve.advisers import second_opinions
from shoal.serve.engines import load
from shoal.serve.judging import read_slot_rules
from shoal.serve.site_record import read_record
from shoal.serve.training import training

#: errors of a log that are spelled out
_NAMED_FAULTS = 5


def run_learn(
    home: Home,
    config: Config,
    *,
    tasks: Sequence[str] | None = None,
    time_limit_min: float | None = None,
    seed: int | None = None,
    force: bool = False,
    outputs_may_train: bool | None = None,
    ask_twice: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Learn from all traces of a data folder and what was said of them; returns the report as plain data.

    Args:
        outputs_may_train, ask_twice: overrule `generalist.outputs_may_train` and `learning.ask_twice`.

    Raises:
        Conflict: another run is under way. Else as `learn` does.
    """
    if outputs_may_train is not None:
        config = _with_outputs_may_train(config, home, outputs_may_train)
    # threads that spin while they wait make training four times slower as soon as anything else wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    loader: EngineLoader = load
    registry = open_registry(home)
    with (
        recorded_run(registry, tasks) as note,
        fraction_bar("learning", progress) as tell,
        training(home, config) as executor,
    ):
        report = learn(
            store=open_traces(home, config),
            registry=registry,
            home=home,
            config=config,
            clock=SystemClock(),
            loader=loader,
            seed=seed,
            time_limit_min=time_limit_min,
            tasks=tasks,
            force=force,
            feedback=registry.feedback(),
            progress=tell,
            opinions=second_opinions(config, ask_twice=ask_twice),
            executor=executor,
            spend=SqlExpenses(registry.database).add,
        ).to_dict()
        note(report)
    return report


@contextmanager
def recorded_run(
    registry: SqlRegistry, tasks: Sequence[str] | None
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Keep a site's feedback actor from learning meanwhile, and let it know what was learnt. Raises Conflict."""
    runs = SqlLearningRuns(registry.database)
    run_id = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
    runs.begin(run_id, tasks=tasks or (), reason=BY_HAND, at=time.time())
    runs.claim(run_id, psutil.Process())
    said: dict[str, Any] = {}
    try:
        yield said.update
    except BaseException as error:
        runs.finish(run_id, "failed", {"error": str(error) or type(error).__name__}, at=time.time())
        raise
    report = json.loads(json.dumps(said, default=str))
    runs.finish(run_id, "stopped" if said.get("interrupted") else "done", report, at=time.time())


def _with_outputs_may_train(config: Config, home: Home, value: bool) -> Config:
    """The configuration with the user's word on training; the generalist is the configured or the running site's."""
    generalist = config.generalist
    if generalist is None:
        record = read_record(home.site)
        generalist = GeneralistConfig(
            base_url=(record and record.generalist_url) or "http://unnamed.invalid",
            model=(record and record.generalist_model) or "unnamed",
        )
    return config.model_copy(
        update={"generalist": generalist.model_copy(update={"outputs_may_train": value})}
    )


def _is_there(home: Home, version: Version) -> bool:
    return (home.models / version.folder).is_dir()


def run_evaluate(home: Home, config: Config, file: Path, predictions: Path | None) -> dict[str, Any]:
    """Score a log; returns the report, and writes a line for each call to `predictions` if it is given.

    Raises:
        UsageError: the file is missing or of no known format.
        DataError: nothing in it can be used.
        CorruptModel: a specialist that should answer is not what its card says.
    """
    log = MemoryTraceStore()
    if predictions is not None and not predictions.absolute().parent.is_dir():
        raise UsageError(
            f"--out {predictions}: there is no folder {predictions.absolute().parent}.",
            remedy="Make it first.",
        )
    read = import_files([file], store=log)
    for name, line, reason in read.skipped[:_NAMED_FAULTS]:
        err.print(f"skipped: {escape(name)}, line {line}: {escape(reason)}", highlight=False, soft_wrap=True)
    if read.skipped_count > _NAMED_FAULTS:
        err.print(f"... and {read.skipped_count - _NAMED_FAULTS} more")
    if not read.kept:
        raise DataError(
            f"{file} has no call that can be used.", remedy="shoal traces import names the faults."
        )
    registry = open_registry(home)
    known = registry.tasks()
    # of a refused version that knew erased calls only its record is left
    versions = [v for v in registry.versions() if v.state is not VersionState.REJECTED or _is_there(home, v)]
    chosen = todays_versions(known, versions, refused=True)

    def load_version(key: str) -> Loaded:
        version = chosen[key]
        folder = home.models / version.folder
        return Loaded(version=version, engine=load(folder, version.sha256), slots=read_slot_rules(folder))

    with fraction_bar("evaluating", None) as tell:
        report, rows = evaluate(
            log.scan(),
            router=Router(todays_snapshot(known, versions, epoch=registry.epoch(), refused=True)),
            load=load_version,
            price=price_of(config),
            rates=Rates.from_config(config),
            progress=tell,
        )
    if predictions is not None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial = predictions.with_name(predictions.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(predictions)
    return {**report, "skipped": read.skipped_count}


def run_explain(home: Home, config: Config, body: object, *, nearest: int = 0) -> dict[str, Any]:
    """The decision for a request, with the specialist's own answer and confidence. Raises InvalidRequest.

    Args:
        nearest: so many of the traces that are most like it are told too; all traces are read for that.
    """
    request = parse_chat_request(body)
    registry = open_registry(home)
    known = registry.tasks()
    versions = registry.versions()
    model = None if config.generalist is None else config.generalist.model
    snapshot = todays_snapshot(known, versions, epoch=registry.epoch())
    result = explain(request, snapshot, generalist_model=model)
    decision = Router(snapshot).decide_logged(request)
    result["served_by"] = "generalist"
    if decision.performer is not None:
        version = todays_versions(known, versions)[decision.performer.key]
        answer = load(home.models / version.folder, version.sha256).answer([request])[0]
        accepted = answer.given and decision.accept(answer.confidence)
        result["specialist_answer"] = answer.content
        if answer.tool_calls:
            result["specialist_calls"] = [call["function"] for call in answer.tool_calls]
        result["confidence"] = answer.confidence
        result["threshold"] = decision.performer.threshold
        if answer.reason:
            result["reasons"] = [*result["reasons"], answer.reason]
        if accepted:
            result["served_by"] = f"specialist/{decision.task_name}@{decision.performer.number}"
    if nearest:
        result["nearest_calls"] = nearest_calls(request, open_traces(home, config).scan(), most=nearest)
    return result


@contextmanager
def fraction_bar(
    title: str, also: Callable[[float, str], None] | None
) -> Iterator[Callable[[float, str], None]]:
    """A progress bar for work that reports (fraction, what); silent where standard error is no terminal."""
    if also is not None:
        yield also
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ) as bar:
        shown = bar.add_task(title, total=1.0)
        yield lambda fraction, text: bar.update(
            shown, completed=fraction, description=escape(text if len(text) <= 40 else text[:39] + "…")
        )
