"""What a learning run says it did: for people, for `--json` and for the run's manifest. Plain data; writes no file but the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from shoal.agents.registry.records import TaskId

#: `pass`, `fail` and `insufficient` are the gate's; `skipped`: nothing was trained, by decision; `unchanged`: its newest version
#: was made from the same calls and settings; `error`: training broke; `stopped`: the run ended before or during this task
Outcome: TypeAlias = Literal["pass", "fail", "insufficient", "skipped", "unchanged", "error", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """One task in one run."""

    task_id: TaskId
    name: str
    output_kind: str
    calls: int
    verdict: Outcome
    reason: str
    kind: str = ""
    version: str = ""
    threshold: float | None = None
    #: share of held-out calls that the version would answer
    coverage: float | None = None
    seconds: float = 0.0
    cut_by_clock: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)
    #: when it has earned its learning, in calls, days and USD; None where the generalist has no price
    break_even: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnReport:
    """One run. `interrupted`: the user stopped it; what was finished is kept. `cut_by_clock`: a rerun may differ."""

    traces: int
    usable: int
    unclustered: int
    seconds: float
    seed: int
    time_limit_min: float
    interrupted: bool
    cut_by_clock: bool
    manifest: str
    tasks: Sequence[TaskReport]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def passed(self) -> list[TaskReport]:
        return [t for t in self.tasks if t.verdict == "pass"]


class Manifest:
    """`learn-<n>.json`: what the run was given, how it split its time, and what came of it. Written at each step."""

    def __init__(self, work: Path, facts: Mapping[str, Any]) -> None:
        work.mkdir(parents=True, exist_ok=True)
        numbers = [int(p.stem[6:]) for p in work.glob("learn-*.json") if p.stem[6:].isdigit()]
        self.number = max(numbers, default=0) + 1
        self.path = work / f"learn-{self.number}.json"
        self._data: dict[str, Any] = {"number": self.number, "complete": False, **facts}
        self._write()

    def note(self, **facts: Any) -> None:
        """Add facts and write the file anew; a reader never sees half of it."""
        self._data.update(facts)
        self._write()

    def _write(self) -> None:
        text = json.dumps(self._data, indent=1, sort_keys=True, ensure_ascii=False, default=str)
        partial = self.path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)
