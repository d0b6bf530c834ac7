"""What the report's page says, as plain data. Shares in [0, 1]; USD None where no price is known. Knows no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.agents.contract.break_even import BreakEven, Price
from shoal.agents.feedback.audit_view import AuditView
from shoal.serve.money import Books
from shoal.serve.report_evidence import CandidateView, FigureView, PairView
from shoal.serve.report_map import MapView
from shoal.serve.report_svg import CurvePoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleView:
    """One logged call: what was asked, what the generalist answered, what the specialist says (empty where it was not asked)."""

    prompt: str
    answer: str
    by: str = ""
    specialist: str = ""
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    number: int
    kind: str
    state: str
    reason: str
    created: str
    coverage: float | None
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyView:
    """A task's money. `generalist_1000`, `specialist_1000`: USD for a thousand of its calls, each answering all of them."""

    even: BreakEven
    calls_per_day: float | None
    learning_core_s: float

    @property
    def generalist_1000(self) -> float:
        return 1000 * self.even.generalist_call_usd

    @property
    def specialist_1000(self) -> float:
        return 1000 * self.even.specialist_call_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task on the page.

    Attributes:
        rank: 1 for the task with the most calls.
        verdict: `specialist`, `not passed`, `taken back`, `excluded` or `not tried`.
        tone: how it is coloured: `serving`, `ready`, `stays` or `idle`.
        share, cost_share: of all calls; of the tokens' price (of the tokens, without a price).
        moves: share of its calls that its specialist answers, or would; 0 where it has none.
        audit: what was seen of its specialist since it is asked; None where there is none, or nothing was.
        tokens_estimated: whether its tokens are an estimate.
    """

    anchor: str
    rank: int
    name: str
    kind: str
    description: str
    calls: int
    share: float
    cost_share: float
    by_specialist: int
    verdict: str
    tone: str
    state: str
    why: str
    alpha: float | None
    delta: float | None
    moves: float
    coverage: FigureView | None
    figures: Sequence[FigureView]
    against: Sequence[PairView]
    curve: Sequence[CurvePoint]
    by_alpha: Sequence[tuple[float, float]]
    candidates: Sequence[CandidateView]
    confusions: Sequence[tuple[str, str, int]]
    fields: Sequence[FigureView]
    versions: Sequence[VersionView]
    money: MoneyView | None
    audit: AuditView | None
    card: str
    fault: str
    examples: Sequence[ExampleView]
    wrong: Sequence[ExampleView]
    unsure: Sequence[ExampleView]
    right: Sequence[ExampleView]

    @property
    def right_answered(self) -> FigureView | None:
        return next((figure for figure in self.figures if figure.key == "right_answered"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page says.

    Attributes:
        served_share: of the logged calls, what specialists answered.
        could_share: what they would answer if the log came again, at the coverage measured.
        could_cost_share: the same, as a share of the generalist's cost.
        learning_usd: what learning the specialists shown cost.
        tokens_estimated: share of the calls whose tokens are an estimate.
    """

    home: str
    made_at: str
    first_call: str
    last_call: str
    calls: int
    calls_per_day: float | None
    in_tasks: int
    served_share: float
    could_share: float
    could_cost_share: float
    spent_usd: float | None
    saved_usd: float | None
    could_save_usd: float | None
    learning_usd: float
    core_hour_usd: float
    tokens_estimated: float
    price: Price | None
    models: Sequence[tuple[str, str, int]]
    tasks: Sequence[TaskView]
    map: MapView | None
    books: Books

    @property
    def with_specialist(self) -> int:
        return sum(task.verdict == "specialist" for task in self.tasks)

    @property
    def staying(self) -> Sequence[TaskView]:
        """Tasks that stay with the large model."""
        return [task for task in self.tasks if task.verdict != "specialist"]

    @property
    def saves_per_1000_usd(self) -> float | None:
        return (
            None if self.could_save_usd is None or not self.calls else 1000 * self.could_save_usd / self.calls
        )

    @property
    def saves_per_month_usd(self) -> float | None:
        each = self.saves_per_1000_usd
        return None if each is None or self.calls_per_day is None else each / 1000 * self.calls_per_day * 30
