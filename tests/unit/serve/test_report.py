from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.contract.calibrate import calibrate
from shoal.agents.contract.gate import HeldOut, decide
from shoal.agents.fakes import FunctionEngine
from shoal.agents.feedback.audit_view import audit_of
from shoal.agents.learning.folder import seal
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.evidence import Evidence, Stage
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import parse_config
from shoal.errors import NotFound, UsageError
from shoal.home import Home
from shoal.serve.report import Price, gather, render, write_report
from shoal.serve.report_evidence import read_against, read_calls, read_curve, read_figures
from shoal.serve.report_map import HEIGHT, WIDTH, draw_map
from shoal.serve.report_svg import coverage_by_alpha, interval, ladder, risk_coverage

NOW = 1_760_000_000.0
EVIL = "<script>alert('x')</script>"


@dataclass
class ListStore:
    """Traces in a list."""

    traces: list[Trace]

    def add(self, traces: Any) -> int:
        self.traces.extend(traces)
        return len(self.traces)

    def scan(self) -> Iterator[Trace]:
        return iter(self.traces)

    def get(self, trace_id: TraceId) -> Trace | None:
        return next((t for t in self.traces if t.id == trace_id), None)

    def count(self) -> int:
        return len(self.traces)


@dataclass
class ListRegistry:
    """Tasks and versions in lists."""

    task_list: list[Task] = field(default_factory=list)
    version_list: list[Version] = field(default_factory=list)

    def epoch(self) -> int:
        return len(self.version_list)

    def tasks(self) -> list[Task]:
        return self.task_list

    def task(self, name_or_id: str) -> Task:
        for task in self.task_list:
            if name_or_id in (task.id, task.name):
                return task
        raise NotFound(f"There is no task {name_or_id!r}.")

    def put_tasks(self, tasks: Any) -> None:
        self.task_list = list(tasks)

    def versions(self, task_id: TaskId | None = None) -> list[Version]:
        return [v for v in self.version_list if task_id in (None, v.task_id)]

    def add_version(self, version: Version, *, moves: Sequence[Move] = ()) -> None:
        self.version_list.append(version)

    def begin_training(self, task_id: TaskId, number: int) -> None:
        raise NotImplementedError("a report trains nothing")

    def end_training(self, task_id: TaskId, number: int, *, reason: str) -> None:
        raise NotImplementedError("a report trains nothing")

    def move(self, moves: Sequence[Move], *, asker: Asker, epoch: int | None = None) -> int:
        raise NotImplementedError("a report moves nothing")


def call(number: int, system: str, user: str, answer: str, served_by: str = "") -> Trace:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer},
        "finish_reason": "stop",
    }
    return Trace(
        id=TraceId(f"t{number}"),
        request={"model": "auto", "messages": messages},
        response={
            "model": "big-model",
            "choices": [choice],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        },
        timestamp=NOW - 1000 + number,
        served_by=served_by,
    )


def log(by_specialist: int = 0) -> list[Trace]:
    labels = ("refund", "card lost", "balance")
    return [
        call(
            n,
            "You route bank messages. Answer with one label: refund, card lost, balance.",
            f"Message {n}: please help me {EVIL if n % 2 else 'now'} about {labels[n % 3]}",
            labels[n % 3],
            "specialist/bank@1" if n < by_specialist else "generalist/big-model",
        )
        for n in range(120)
    ]


def version(task: Task, state: VersionState, *, number: int = 1, **evidence: Any) -> Version:
    return Version(
        task_id=task.id,
        number=number,
        kind="classifier",
        state=state,
        folder="f",
        sha256="0",
        threshold=0.8,
        alpha=0.05,
        delta=0.05,
        evidence=evidence,
        reason="because of the gate",
        created_at=NOW,
    )


def evidence() -> dict[str, Any]:
    confidences = [n / 300 for n in range(300)]
    wrong = [n < 20 for n in range(300)]
    calibration = calibrate(confidences, wrong, 0.05, 0.05)
    held_out = [HeldOut(confidence=c, wrong=w) for c, w in zip(confidences, wrong, strict=True)]
    verdict = decide(OutputKind.LABEL, held_out, calibration)
    return {"verdict": verdict.to_dict(), "calibration": calibration.to_dict()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def found_tasks(traces: list[Trace]) -> list[Task]:
    tasks = find_tasks(traces, known=[], seed=0, now=NOW).tasks
    assert len(tasks) == 1
    return tasks


def test_the_page_gives_totals_tasks_evidence_and_examples(home: Home) -> None:
    traces = log(by_specialist=30)
    (task,) = found_tasks(traces)
    registry = ListRegistry([task], [version(task, VersionState.SERVING, **evidence())])
    report = gather(home, registry, ListStore(traces), price=Price(tokens_in=10, tokens_out=100), now=NOW)

    assert (report.calls, report.in_tasks, report.served_share) == (120, 120, 0.25)
    assert report.spent_usd == pytest.approx(90 * (100 * 10 + 10 * 100) / 1e6)
    assert report.saved_usd == pytest.approx(30 * (100 * 10 + 10 * 100) / 1e6)
    (view,) = report.tasks
    assert (view.verdict, view.state, view.share, view.by_specialist) == ("specialist", "serving", 1.0, 30)
    assert view.coverage is not None and view.coverage.count == 300 and view.coverage.low is not None
    assert view.coverage.low < view.coverage.value < (view.coverage.high or 0)
    assert report.could_share == pytest.approx(view.coverage.value)
    assert len(view.examples) == 3 and len(view.curve) > 5

    page = render(report)
    for text in (
        view.name,
        "because of the gate",
        "Right, of those answered",
        "risk",
        "big-model",
        "$0.18",
    ):
        assert text in page


def test_the_page_tells_how_the_audit_stands_once_anything_was_seen(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    registry = ListRegistry([task], [version(task, VersionState.SERVING, **evidence())])
    seen = Evidence(stages={"audit": Stage(compared=80, agreed=77)})

    def page(known: Evidence) -> str:
        store = ListStore(traces)
        audit = partial(audit_of, evidence=known)
        return render(gather(home, registry, store, price=None, now=NOW, audit=audit))

    assert "80 answers compared since it serves, 3 differed from the generalist&#39;s" in page(seen)
    assert "Its audit" not in page(Evidence())


def test_everything_from_a_log_is_escaped_and_nothing_is_loaded_from_elsewhere(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    task = replace(task, name=f"bank-{EVIL}", description=EVIL)
    shown = {"wrong": [{"id": "t1", "confidence": 0.97}, {"id": "erased", "confidence": 0.9}]}
    more = {"calls_to_show": shown, "measures": {"confusions": [[EVIL, "refund", 3]]}}
    registry = ListRegistry([task], [version(task, VersionState.SHADOW, **evidence(), **more)])
    engine = FunctionEngine(lambda r: SpecialistAnswer(content=f"refund {EVIL}", confidence=0.97))
    report = gather(home, registry, ListStore(traces), price=None, now=NOW, load=lambda v: engine)
    page = render(report)

    (wrong,) = report.tasks[0].wrong
    assert (wrong.answer, wrong.specialist) == ("card lost", f"refund {EVIL}") and EVIL in wrong.prompt
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "confidence 0.970" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & tags.seen
    assert not [a for a in tags.links if not a.startswith("#")]
    assert "url(" not in page and "@import" not in page
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]", page)
    assert "prefers-color-scheme: dark" in page


def test_a_task_that_did_not_pass_is_excluded_or_was_not_tried_says_why(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    registry = ListRegistry([task], [version(task, VersionState.REJECTED, coverage=0.1)])
    (view,) = gather(home, registry, ListStore(traces), price=None, now=NOW).tasks
    assert (view.verdict, view.why) == ("not passed", "because of the gate")
    assert gather(home, registry, ListStore(traces), price=None, now=NOW).could_share == 0

    registry = ListRegistry([replace(task, reason="only 20 calls")])
    (view,) = gather(home, registry, ListStore(traces), price=None, now=NOW).tasks
    assert (view.verdict, view.why, view.coverage) == ("not tried", "only 20 calls", None)

    registry = ListRegistry([replace(task, excluded=True)])
    report = gather(home, registry, ListStore(traces), price=None, now=NOW)
    assert (report.tasks[0].verdict, report.tasks[0].why) == ("excluded", "Excluded by the owner.")
    assert "Excluded by the owner." in render(report)


def test_a_newer_rejected_version_does_not_hide_the_one_that_serves(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    versions = [
        version(task, VersionState.SERVING, coverage=0.9),
        version(task, VersionState.REJECTED, number=2, coverage=0.1),
    ]
    (view,) = gather(home, ListRegistry([task], versions), ListStore(traces), price=None, now=NOW).tasks
    assert view.verdict == "specialist" and view.coverage is not None and view.coverage.value == 0.9
    assert [v.number for v in view.versions] == [2, 1]


def test_an_empty_home_and_a_log_without_tasks_each_say_what_to_do(home: Home) -> None:
    empty = render(gather(home, ListRegistry(), ListStore([]), price=None, now=NOW))
    assert "shoal traces import" in empty
    untaught = render(gather(home, ListRegistry(), ListStore(log()), price=None, now=NOW))
    assert "shoal learn" in untaught and "120" in untaught


def test_a_file_that_cannot_be_written_is_one_clear_error_and_leaves_nothing(
    home: Home, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"cannot be written.*--out"):
        write_report(
            home, ListRegistry(), ListStore([]), tmp_path / "missing" / "r.html", price=None, now=NOW
        )
    write_report(home, ListRegistry(), ListStore([]), tmp_path / "r.html", price=None, now=NOW)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_trace_that_was_erased_is_on_no_later_page(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    shown = {"right": [{"id": "t4", "confidence": 0.9}], "wrong": [{"id": "t5", "confidence": 0.8}]}
    registry = ListRegistry([task], [version(task, VersionState.SHADOW, **evidence(), calls_to_show=shown)])
    before = gather(home, registry, ListStore(traces), price=None, now=NOW).tasks[0]
    assert [e.prompt for e in before.wrong] == [traces[5].chat.last_user_text]
    left = [t for t in traces if t.id not in ("t4", "t5")]
    after = gather(home, registry, ListStore(left), price=None, now=NOW)
    assert not after.tasks[0].wrong and not after.tasks[0].right
    assert "Message 5:" not in render(after)


def test_money_is_at_todays_prices_and_break_even_follows(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    costs = {"core_seconds": 3600.0, "answer_ms": 3.6}
    registry = ListRegistry([task], [version(task, VersionState.SERVING, coverage=0.5, costs=costs)])
    price = Price(tokens_in=10, tokens_out=100)
    dear = parse_config({"learning": {"core_hour_usd": 0.1}}, source="test")
    report = gather(home, registry, ListStore(traces), price=price, now=NOW, config=dear)
    money = report.tasks[0].money
    assert money is not None and money.even.learning_usd == pytest.approx(0.1)
    assert money.generalist_1000 == pytest.approx(2.0)
    each = 0.5 * 0.002 - 3.6e-3 / 3600 * 0.1
    assert money.even.calls == 101 and money.even.saved_per_call_usd == pytest.approx(each)
    assert report.could_save_usd == pytest.approx(120 * each)
    assert report.saves_per_month_usd is None  # two minutes of log say nothing of a month
    page = render(report)
    assert "101 calls" in page and "$0.10" in page
    assert gather(home, registry, ListStore(traces), price=None, now=NOW).tasks[0].money is None


def test_a_model_that_was_altered_is_said_to_be_and_not_asked(home: Home) -> None:
    traces = log()
    (task,) = found_tasks(traces)
    folder = home.models / "f"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    sha256 = seal(folder, {"kind": "classifier", "licences": {"base": "MIT"}})
    sound = replace(version(task, VersionState.SHADOW, **evidence()), sha256=sha256)
    (view,) = gather(home, ListRegistry([task], [sound]), ListStore(traces), price=None, now=NOW).tasks
    assert view.fault == "" and "base: MIT" in view.card
    (folder / "weights").write_text("other")
    report = gather(home, ListRegistry([task], [sound]), ListStore(traces), price=None, now=NOW)
    assert "weights was altered" in report.tasks[0].fault and "weights was altered" in render(report)


def test_absent_or_odd_evidence_is_left_out() -> None:
    assert read_figures({}) == [] and read_curve({}) == [] and read_against({}) == []
    assert read_calls({"calls_to_show": {"wrong": ["x", {"no": 1}, {"id": 5}]}})["wrong"][0].id == "5"
    odd = {
        "coverage": float("inf"),
        "figures": {"right_all": {"value": None}, "floor": {"value": 0.0, "count": 0}},
        "curve": [[1, 2], "x", [0.5, 0.5, None, 0.1]],
        "gate": {"against": {"floor": {"value": 1}}},
    }
    assert read_figures(odd) == [] and read_curve(odd) == [] and read_against(odd) == []
    half = read_figures({"coverage": 0.5, "gate": {"figures": {"speed": 3}}})
    assert [(f.key, f.value, f.low) for f in half] == [("coverage", 0.5, None), ("speed", 3.0, None)]


def test_pictures_stay_within_their_frame() -> None:
    picture = risk_coverage([(0.1, 0, 0.3), (0.5, 0.01, 0.04), (1.0, 0.9, 1.0)], alpha=0.05, chosen=0.5)
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", str(picture))]
    assert ys and max(ys) <= 200 and min(ys) >= 0
    assert 'class="chosen"' in picture and str(risk_coverage([(0.5, 0, 0)], alpha=0.05, chosen=None)) == ""
    assert 'cx="126"' in interval(1.7, label="<over>") and "&lt;over&gt;" in interval(1.7, label="<over>")
    assert "chosen" in coverage_by_alpha([(0.01, 0), (0.05, 0.4), (0.2, 0.9)], alpha=0.05)
    assert str(coverage_by_alpha([], alpha=0.05)) == "" and str(ladder([])) == ""
    marks = ladder([(1.0, 0.9, str(n), True) for n in range(6)])
    places = re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)"', str(marks))
    assert len(set(places)) == 6


def test_islands_of_the_map_lie_inside_it_and_do_not_cover_each_other() -> None:
    words = [f"word{i}" for i in range(8)]
    sample = [
        (f"{words[i % 8]} {words[(i * i) % 8]} and more {i % 5}", TaskId(f"t{i % 8}")) for i in range(48)
    ]
    drawn = draw_map(sample, {TaskId(f"t{i}"): 0.125 for i in range(8)})
    assert drawn is not None and len(drawn.islands) == 8 and len(drawn.points) == 48
    for a in drawn.islands:
        assert a.radius <= a.x <= WIDTH - a.radius and a.radius <= a.y <= HEIGHT - a.radius
        for b in drawn.islands:
            if a.task_id < b.task_id:
                assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius
    assert draw_map(sample[:5], {}) is None
    assert draw_map([("", None)] * 50, {}) is None


class Tags(HTMLParser):
    """The tags of a page, and whether each is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
