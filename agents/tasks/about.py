"""What a task is for its owner: volume, tokens, examples, what its answers are, and whether a specialist could do it, with reasons.

Counted call by call, so that nothing but counts stays in memory. Kept in `Task.match["about"]`. Pure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from shoal.agents.registry.records import OutputKind, Task
from shoal.agents.tasks.calls import Call
from shoal.agents.tasks.shapes import RECORDS, AnswerShape

EXAMPLES = 3
_MOST_ANSWERS = 5000
_SHOWN_ANSWERS = 5
_MAX_VALUES = 20
#: a contract of 5% risk with 95% confidence takes so many right answers in calibration, without one that is wrong
_PROOF_CALLS = 59
#: of a task's calls, about so many calibrate
_CALIBRATES = 0.3
#: where one answer in so many comes once only, the answers are no closed set
_OPEN_SHARE = 0.2
#: a function that follows in such a share of the turns can be learnt from them
_FOLLOWS = 0.6


@dataclass(slots=True)
class Tally:
    """What some calls have asked for and been answered."""

    calls: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    records: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    guessed: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    tools: bool = False
    formats: set[str] = field(default_factory=set)
    temperature: float | None = None
    max_tokens: int | None = None
    lengths: Counter[int] = field(default_factory=Counter)
    last_roles: set[str] = field(default_factory=set)
    settings: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, call: Call) -> None:
        """Count a call in."""
        self.tools = self.tools or call.features.has_tools
        self.calls += 1
        self.shapes[call.shape] += 1
        answer = call.action or (call.content if call.shape.startswith(AnswerShape.LABEL) else "")
        if answer and (answer in self.answers or len(self.answers) < _MOST_ANSWERS):
            self.answers[answer] += 1
        self.records += call.features.structure in RECORDS
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        self.guessed += call.tokens_guessed
        self.formats.add(call.features.format)
        self.last_roles.add(call.last_role)
        self.lengths[len(call.content)] += 1
        self._settings(call.settings)
        lot = blake2b(call.id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
        if len(self.examples) < EXAMPLES or lot < self.examples[-1][0]:
            self.examples = sorted([*self.examples, (lot, call.id)])[:EXAMPLES]

    def _settings(self, settings: Mapping[str, Any]) -> None:
        if isinstance(temperature := settings.get("temperature"), (int, float)):
            self.temperature = max(float(temperature), self.temperature or 0.0)
        for name in ("max_tokens", "max_completion_tokens"):
            if limit := settings.get(name):
                self.max_tokens = int(limit) if self.max_tokens is None else min(int(limit), self.max_tokens)
        for name, value in settings.items():
            self.settings.setdefault(name, Counter())[json.dumps(value, sort_keys=True, default=str)] += 1

    def asks(self) -> dict[str, Any]:
        """What the calls asked for beyond their messages, so that a new request can be compared; see `routing/capability.py`."""
        choices = self.settings.get("tool_choice", Counter())
        unsaid = {'"auto"'} if choices.total() < self.calls else set()
        return {
            "tools": self.tools,
            "formats": sorted(self.formats),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "answer_chars": _quantile(self.lengths, 0.99),
            "last_roles": sorted(self.last_roles),
            "tool_choices": sorted({*choices, *unsaid}),
            "settings": {
                name: [value for value, _ in ranked(counts)[:_MAX_VALUES]]
                for name, counts in sorted(self.settings.items())
            },
        }

    def kind(self) -> OutputKind:
        """What the answers are: tool calls where they are more than rare, else what four in five of them are, else text."""
        answered = max(1, self.calls - self.shapes[AnswerShape.NONE])
        labels = sum(count for shape, count in self.shapes.items() if shape.startswith(AnswerShape.LABEL))
        if self.shapes[AnswerShape.TOOL_CALL] > 0.05 * answered:
            return OutputKind.TOOL_CALL
        if labels >= 0.8 * answered:
            return OutputKind.LABEL
        return OutputKind.JSON if self.shapes[AnswerShape.JSON] >= 0.8 * answered else OutputKind.TEXT

    def about(self, all_calls: int, all_in: int, all_out: int) -> dict[str, Any]:
        """Plain data for people; `of` are the figures of the whole log, to which shares refer."""
        once = sum(count == 1 for count in self.answers.values())
        shapes: Counter[str] = Counter()
        for shape, count in self.shapes.items():
            shapes[shape.partition(":")[0]] += count
        return {
            "examples": [name for _, name in self.examples],
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "tokens_guessed": self.guessed > 0,
            "of": {"calls": all_calls, "tokens_in": all_in, "tokens_out": all_out},
            "shapes": dict(ranked(shapes)),
            "answers": dict(ranked(self.answers)[:_SHOWN_ANSWERS]),
            "distinct": len(self.answers),
            "once": once,
            "records": self.records,
        }


def ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, then by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _quantile(counts: Counter[int], share: float) -> int:
    place, passed = int(share * counts.total()), 0
    for value, count in sorted(counts.items()):
        passed += count
        if passed > place:
            return value
    return max(counts, default=0)


def tally(calls: Sequence[Call]) -> Tally:
    """The tally of some calls."""
    counted = Tally()
    for call in calls:
        counted.add(call)
    return counted


# --- for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens of the generalist."""

    tokens_in: float
    tokens_out: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of the log that tasks were last found in.

    Attributes:
        calls, cost: shares in [0, 1]; None where the task was found before shares were kept.
        cost_usd: None where no price is configured.
        by: what the share of cost is a share of: `USD`, or `tokens` where no price is known.
        guessed: tokens were counted from characters, because the log does not tell them.
    """

    calls: float | None = None
    cost: float | None = None
    cost_usd: float | None = None
    by: str = "tokens"
    guessed: bool = False


def shares(task: Task, price: Price | None) -> Shares:
    """The task's share of volume and cost."""
    about = task.match.get("about")
    if not about:
        return Shares()
    per_in, per_out = (price.tokens_in / 1e6, price.tokens_out / 1e6) if price else (1.0, 1.0)
    own = per_in * about["tokens_in"] + per_out * about["tokens_out"]
    every = per_in * about["of"]["tokens_in"] + per_out * about["of"]["tokens_out"]
    return Shares(
        calls=task.calls / max(1, about["of"]["calls"]),
        cost=own / every if every else 0.0,
        cost_usd=own if price else None,
        by="USD" if price else "tokens",
        guessed=about["tokens_guessed"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Suitability:
    """Whether a specialist could do the task, judged before any training: `yes`, `perhaps` or `no`, and why."""

    verdict: str
    reasons: tuple[str, ...]


def suitability(task: Task, *, min_calls: int) -> Suitability:
    """Judge a task by its counts. Training and the gate have the last word.

    Args:
        min_calls: `learning.min_calls`.
    """
    against: list[str] = []
    doubts: list[str] = []
    if task.excluded:
        against.append("excluded by the owner")
    if task.calls < min_calls:
        against.append(f"too few calls: {task.calls}; training takes {min_calls}")
    elif _CALIBRATES * task.calls < _PROOF_CALLS:
        doubts.append(
            f"few calls: proof at 5% risk takes {_PROOF_CALLS} right answers in calibration, about"
            f" {int(_PROOF_CALLS / _CALIBRATES)} calls"
        )
    good, doubt = _by_answers(task)
    doubts += doubt
    if against:
        return Suitability(verdict="no", reasons=(*against, *doubts))
    return Suitability(verdict="perhaps" if doubts else "yes", reasons=(*doubts, *good))


def _by_answers(task: Task) -> tuple[list[str], list[str]]:
    """What the answers say for a specialist, and what leaves doubts."""
    about = task.match.get("about")
    if not about:
        return [], ["its answers have not been counted yet; shoal learn does"]
    distinct, answered = int(about["distinct"]), max(1, sum(about["shapes"].values()))
    if task.output_kind is OutputKind.LABEL:
        if about["once"] > _OPEN_SHARE * answered:
            return [], [f"{distinct:,} different answers, many of them once: no closed set"]
        return [f"a closed set of {distinct:,} answers"], []
    if task.output_kind is OutputKind.JSON:
        return ["JSON, whose fields can be compared"], []
    if task.output_kind is OutputKind.TOOL_CALL:
        name, count = max(about["answers"].items(), key=lambda item: item[1], default=("none", 0))
        calling = about["shapes"].get("tool_call", 0)
        if distinct == 1 or count >= _FOLLOWS * answered:
            return [f"{name} is called in {count / answered:.0%} of the turns"], []
        return [], [
            f"{distinct} functions; the most frequent, {name}, in {count / answered:.0%} of the turns, "
            f"none in {1 - calling / answered:.0%}"
        ]
    if about["records"] >= 0.9 * answered:
        return ["texts about records: values can be checked, wording is not judged"], []
    return [], ["free text: only values can be checked, wording has no loss"]
