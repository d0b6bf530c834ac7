from __future__ import annotations

import json
import random
from dataclasses import replace

from shoal.agents.contract.drift import bin_of, histogram
from shoal.agents.contract.sequential import Block
from shoal.agents.feedback.watching import (
    Command,
    ContradictionsRead,
    InputsSeen,
    KeepWatch,
    ReportDrift,
    Said,
    Watch,
    WatchesRead,
    Watching,
    WeighSaid,
)
from shoal.agents.registry.records import TaskId, Version, VersionState

HOUR = 3600.0
LIKE = [random.Random(n).betavariate(8, 2) for n in range(300)]
VERSION = Version(
    task_id=TaskId("t"),
    number=1,
    kind="classifier",
    state=VersionState.SERVING,
    folder="t/1",
    sha256="0" * 64,
    threshold=0.5,
    alpha=0.05,
    delta=0.05,
    evidence={"calibration": {"confidences": histogram(LIKE)}},
)


def watching(version: Version = VERSION, **read: object) -> Watching:
    machine = Watching()
    machine.handle(WatchesRead(versions=[version], **read))  # type: ignore[arg-type]
    return machine


def seen(number: int, confidences: list[float], *, given: int = 40, at: float | None = None) -> InputsSeen:
    when = float(number) if at is None else at
    bins = tuple(bin_of(c) for c in confidences)
    return InputsSeen(version_key="t@1", bins=bins, given=given, key=f"k{number}", since=when, at=when)


def of(commands: list[Command], kind: type) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def test_inputs_like_those_of_calibration_are_counted_kept_and_no_news() -> None:
    machine = watching()
    (kept, weighed) = machine.handle(seen(1, LIKE[:50]))
    assert kept == KeepWatch(version_key="t@1", watch=machine.watch("t@1"))
    assert isinstance(weighed, WeighSaid) and weighed.said.given == 40
    assert machine.watch("t@1").inputs.count == 50
    assert machine.watch("t@1").blocks == ((1.0, 40),)


def test_drift_is_news_once_and_said_again_to_whoever_reads_it_back() -> None:
    machine = watching()
    reports = [
        report
        for number in range(1, 20)
        for report in of(machine.handle(seen(number, [0.2] * 50)), ReportDrift)
    ]
    (report,) = reports
    assert isinstance(report, ReportDrift)
    assert report.task_id == "t" and report.at <= 3
    assert report.reason.startswith("inputs drifted: over ")
    kept = Watch.from_dict(json.loads(json.dumps(machine.watch("t@1").to_dict())))
    again = Watching().handle(WatchesRead(versions=[VERSION], watches={"t@1": kept}))
    (told,) = of(again, ReportDrift)
    assert isinstance(told, ReportDrift) and told.at == report.at


def test_a_version_of_before_has_no_watch_over_inputs_but_its_answers_count() -> None:
    machine = watching(replace(VERSION, evidence={}))
    for number in range(20):
        assert not of(machine.handle(seen(number, [0.2] * 50)), ReportDrift)
    assert machine.watch("t@1").inputs.count == 0
    assert machine.watch("t@1").given == 800


def test_contradictions_are_weighed_against_all_answers_given() -> None:
    machine = watching()
    machine.handle(seen(1, [], given=200))
    (few,) = machine.handle(ContradictionsRead(version_key="t@1", answered_at=(1.5,)))
    (many,) = machine.handle(ContradictionsRead(version_key="t@1", answered_at=(1.5,) * 60))
    assert isinstance(few, WeighSaid) and isinstance(many, WeighSaid)
    assert few.said.e_value < 1 and (few.said.given, few.said.contradicted) == (200, 1)
    assert many.said.e_value > 1000


def test_contradicted_answers_from_before_the_watch_began_are_not_counted() -> None:
    machine = watching(contradicted={"t@1": [0.5] * 60})
    weighed = of(machine.handle(seen(1, [], given=200)), WeighSaid)
    assert [w.said.contradicted for w in weighed if isinstance(w, WeighSaid)] == [0]


def test_a_new_stretch_begins_when_the_old_one_is_long_and_full_enough() -> None:
    watch = Watch().with_answers(100, since=0.0, at=1.0)
    watch = watch.with_answers(50, since=7 * HOUR, at=7 * HOUR)
    assert watch.blocks == ((0.0, 150),)
    watch = watch.with_answers(60, since=8 * HOUR, at=8 * HOUR)
    assert watch.blocks == ((0.0, 210), (8 * HOUR, 0))
    watch = watch.with_answers(10, since=9 * HOUR, at=9 * HOUR)
    assert watch.against([1.0, 8.5 * HOUR, 8.6 * HOUR]) == [Block(210, 1), Block(10, 2)]
    assert watch.given == 220


def test_a_restart_that_reads_its_watch_back_decides_as_if_nothing_had_happened() -> None:
    one = watching()
    for number in range(5):
        one.handle(seen(number, LIKE[:30]))
    two = watching(watches={"t@1": one.watch("t@1")})
    assert two.handle(seen(6, [0.3] * 40)) == one.handle(seen(6, [0.3] * 40))


def test_a_version_that_is_not_asked_is_not_watched_and_begins_anew_when_it_is() -> None:
    machine = watching()
    machine.handle(seen(1, [0.2] * 50))
    machine.handle(WatchesRead(versions=[replace(VERSION, state=VersionState.PAUSED)]))
    assert machine.handle(seen(2, [0.2] * 50)) == []
    machine.handle(WatchesRead(versions=[VERSION]))
    assert machine.watch("t@1") == Watch()
    assert Said() == Said(given=0, contradicted=0, e_value=1.0)
