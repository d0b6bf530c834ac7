"""`shoal plans`, over a data folder, and over a site that is a runner in this process."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from shoal.agents.fakes import FunctionPerformer
from shoal.agents.plans.plan import parse_plan
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.commands import plans as commands
from shoal.commands._shared import run_app
from shoal.errors import StepFailed
from shoal.home import Home
from shoal.nodes.spool import SystemClock

T = TypeVar("T")

TEXT = """
name: ticket
description: Sorts a ticket, looks it up and writes a line for each row that was found.
input: {type: object, required: [question]}
skills:
  write: {system: Write., tier: edge}
steps:
  - {id: kind, use: auto, system: Sort., input: $input.question}
  - {id: facts, use: tool/look, input: {kind: $kind}, retries: 0}
  - {id: lines, use: skill/write, each: $facts.rows, input: $item}
result: $lines
"""
QUESTION = '{"question": "where is my lamp?"}'


class Site:
    """What `Client` is to the commands, with the runner of a site in a thread of this process."""

    def __init__(self, database: Path) -> None:
        self.broken = False
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        ids = itertools.count(1)
        self.runner = PlanRunner(
            store=SqlRuns(Database(database)),
            performer=FunctionPerformer(tools={"look": self._look}),
            clock=SystemClock(),
            ids=lambda: f"run-{next(ids)}",
        )
        self.plans = self

    def _look(self, arguments: Mapping[str, Any]) -> Any:
        if self.broken:
            raise StepFailed("the shop's [database] is away")
        return {"rows": ["lamp on its way", "tent late"]}

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._wait(self.runner.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    # -- `Client.plans`

    def run(
        self,
        name: str,
        input: Mapping[str, Any],
        *,
        plan: Mapping[str, Any] | None = None,
        privacy: Any = None,
    ) -> Iterator[dict[str, Any]]:
        what = name if plan is None else parse_plan(plan, source="plan")
        run_id = self._wait(self.runner.start(what, input, privacy=privacy or "internal"))
        yield from self.events(run_id)

    def events(self, run_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        async def all_of_them() -> list[dict[str, Any]]:
            return [event async for event in self.runner.events(run_id, after=after)]

        yield from self._wait(all_of_them())

    def get(self, run_id: str) -> dict[str, Any]:
        return self._wait(self.runner.get(run_id))

    def resume(self, run_id: str) -> dict[str, Any]:
        return self._wait(self.runner.resume(run_id))

    def cancel(self, run_id: str) -> dict[str, Any]:
        return self._wait(self.runner.cancel(run_id))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "site").create()


@pytest.fixture
def site(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    found = Site(home.database)
    monkeypatch.setattr(commands, "_client", lambda _: found)
    yield found
    found.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticket.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def shoal(home: Home, capsys: pytest.CaptureFixture[str]) -> Any:
    def called(*arguments: str) -> tuple[int, Any, str]:
        """Exit code, what was printed (read, where it is JSON), and what was told beside it."""
        code = run_app(commands.app, [*map(str, arguments), "--home", str(home.root)])
        printed, told = capsys.readouterr()
        return code, json.loads(printed) if "--json" in arguments else printed, told

    return called


def assert_fits(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 80


def test_a_file_is_run_and_its_steps_are_told(site: Site, shoal: Any, file: Path) -> None:
    code, printed, told = shoal("run", file, "--input", QUESTION)
    assert code == 0
    assert [line.split("  ")[0] for line in told.splitlines()] == ["done kind", "done facts", "done lines x2"]
    assert printed.endswith("lamp on its way\ntent late\n")
    assert "tool/look" in printed and "node-a" in printed
    assert_fits(printed)
    _, view, _ = shoal("run", file, "--input", QUESTION, "--privacy", "local-only", "--json")
    assert (view["status"], view["label"]) == ("done", "local-only")
    assert view["output"] == ["lamp on its way", "tent late"]


def test_a_plan_that_is_kept_is_run_by_its_name(site: Site, shoal: Any, file: Path) -> None:
    assert shoal("add", file)[0] == 0
    for name in ("ticket", "agent/ticket"):
        assert shoal("run", name, "--input", QUESTION)[0] == 0
    code, found, _ = shoal("run", "none", "--json")
    assert code == 1 and "no plan 'none'" in found["error"]["message"]


def test_a_run_that_fails_says_why_and_goes_on_where_it_stood(site: Site, shoal: Any, file: Path) -> None:
    site.broken = True
    code, printed, told = shoal("run", file, "--input", QUESTION)
    assert code == 1
    assert "failed facts  the shop's [database] is away" in told and "skipped lines" in told
    assert "x facts" in printed and "- lines" in printed
    assert_fits(printed)
    site.broken = False
    code, printed, told = shoal("resume", "run-1")
    assert code == 0
    assert [line.split("  ")[0] for line in told.splitlines()] == ["done facts", "done lines x2"]
    assert shoal("cancel", "run-1")[1] == "The run run-1 is done.\n"
    assert shoal("cancel", "none", "--json")[1]["error"]["code"] == "not_found"


def test_plans_and_runs_are_listed_and_drawn_without_a_site(
    site: Site, shoal: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shoal("add", file)
    shoal("run", "ticket", "--input", QUESTION)
    monkeypatch.undo()
    code, printed, _ = shoal("ls")
    assert code == 0
    for told in ("agent/ticket", "agent/planner", "run-1", "done", "internal"):
        assert told in printed
    assert_fits(printed)
    listed = shoal("ls", "--json")[1]
    assert [plan["name"] for plan in listed["plans"]] == ["ticket"]
    assert [run["id"] for run in listed["runs"]] == ["run-1"]
    assert shoal("ls", "--runs", "0", "--json")[1]["runs"] == []
    for name in ("run-1", "ticket", "agent/planner", file):
        code, printed, _ = shoal("show", name)
        assert code == 0
        assert_fits(printed)
    assert shoal("show", "run-1", "--json")[1]["status"] == "done"
    assert shoal("show", file, "--json")[1] == shoal("show", "ticket", "--json")[1]
    assert shoal("show", "none")[0] == 1


def test_a_run_that_was_left_is_drawn_by_what_is_kept_of_it(home: Home, shoal: Any) -> None:
    async def left() -> None:
        fake = FunctionPerformer(tools={"look": lambda arguments: {"rows": []}})
        runner = PlanRunner(
            store=SqlRuns(Database(home.database)),
            performer=fake,
            clock=SystemClock(),
            ids=lambda: "left",
        )
        steps = [
            {"id": "a", "use": "auto", "input": "x"},
            {"id": "b", "use": "tool/look", "input": {"a": "$a"}},
        ]
        await runner.start(parse_plan({"name": "p", "steps": steps, "result": "$b"}, source="t"), {})
        async for event in runner.events("left"):
            if event["type"] == "step_done":
                fake.delay_s = 30
                break
        await runner.close()

    asyncio.run(left())
    code, view, told = shoal("show", "left", "--json")
    assert code == 0 and "this is what is kept of it" in told
    assert view["status"] == "running"
    assert view["steps"][0]["status"] == "done"
    assert view["steps"][1]["status"] in ("running", "done")


@pytest.mark.parametrize(
    ("given", "why"), [("{", "must be a JSON object"), ("[1]", "got list"), ("nonsense", "must be a JSON")]
)
def test_an_input_that_is_no_object_is_refused(
    site: Site, shoal: Any, file: Path, given: str, why: str
) -> None:
    code, found, _ = shoal("run", file, "--input", given, "--json")
    assert code == 2 and why in found["error"]["message"]


def test_an_input_that_breaks_the_plans_schema_is_refused_before_it_runs(
    site: Site, shoal: Any, file: Path
) -> None:
    code, found, _ = shoal("run", file, "--json")
    assert code == 1 and "'question' is a required property" in found["error"]["message"]
    assert shoal("ls", "--json")[1]["runs"] == []


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("{", 2, "is no YAML"),
        ("name: x", 1, "`steps`"),
        ("{name: x, steps: [{id: a, use: auto, input: 2025-01-01}], result: $a}", 1, "a date is no JSON"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(
    shoal: Any, tmp_path: Path, text: str, code: int, why: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    found = shoal("show", path, "--json")
    assert found[0] == code and why in found[1]["error"]["message"]
    assert shoal("add", tmp_path / "none.yaml")[0] == 2


def test_running_needs_a_site(shoal: Any, file: Path) -> None:
    for arguments in (("run", file), ("resume", "r"), ("cancel", "r")):
        code, found, _ = shoal(*arguments, "--json")
        assert code == 1 and found["error"]["code"] == "site_error"
