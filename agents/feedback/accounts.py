"""Prices put on what was counted: what the generalist would have charged, what was paid, saved and spent on learning. Pure.

USD; None wherever a price or a measurement is missing, never 0. What is saved is what the generalist would have charged for the calls that
specialists answered, less the specialists' compute (also of those calls that they were not sure of, and of shadows) and less the audits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.latencies import Latencies
from shoal.agents.feedback.ledger import NO_TASK, Compute, Expense, Ledger, Sums
from shoal.agents.registry.records import TaskId
from shoal.config import Config

_OPINIONS = ("again", "judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What machines cost: USD for an hour of one core, or of one GPU, by tier; `""` for any tier that has no rate of its own."""

    core_hour_usd: Mapping[str, float]
    gpu_hour_usd: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config) -> Rates:
        cores = {"": config.learning.core_hour_usd}
        gpus = {} if config.costs.gpu_hour_usd is None else {"": config.costs.gpu_hour_usd}
        for tier, costs in config.costs.tiers.items():
            if costs.core_hour_usd is not None:
                cores[tier] = costs.core_hour_usd
            if costs.gpu_hour_usd is not None:
                gpus[tier] = costs.gpu_hour_usd
        return cls(core_hour_usd=cores, gpu_hour_usd=gpus)

    def core(self, tier: str) -> float | None:
        return self.core_hour_usd.get(tier, self.core_hour_usd.get(""))

    def gpu(self, tier: str) -> float | None:
        return self.gpu_hour_usd.get(tier, self.gpu_hour_usd.get(""))

    def usd(self, compute: Compute, tier: str = "", *, cores: float = 1.0) -> float | None:
        """What some compute cost; None where its rate is not known.

        Args:
            cores: that one replica holds while it computes.
        """
        found = 0.0
        for ms, rate in ((compute.cpu_ms * cores, self.core(tier)), (compute.gpu_ms, self.gpu(tier))):
            if ms and rate is None:
                return None
            found += ms / 3.6e6 * (rate or 0.0)
        return found


def plus(*amounts: float | None) -> float | None:
    """The sum; None as soon as one of them is not known."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def price_of(config: Config) -> Price | None:
    """The generalist's price; None where none is configured."""
    generalist = config.generalist
    if generalist is None or not (generalist.price_in or generalist.price_out):
        return None
    return Price(tokens_in=generalist.price_in, tokens_out=generalist.price_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A task's, or all of them.

    Attributes:
        tokens_in, tokens_out: of all calls, whoever answered.
        all_generalist_usd: what the generalist would have charged for all of them, at today's price.
        paid_usd: what it was paid for those that it answered; `paid_at_todays_price` of its calls name no cost of their own.
        avoided_usd: what it would have charged for those that specialists answered.
        compute_usd, compute_cpu_s, compute_gpu_s: of specialists that were asked for clients' calls.
        unmeasured: calls that a specialist answered whose compute nobody recorded: what was saved is less by it.
        energy_joules: of GPUs; None where none was metered.
        audits: calls of clients that were also put to the generalist; `audits_usd`: what that cost.
        shadow_usd: compute of versions that answer nobody.
        learning_usd, learning_cpu_s, learning_gpu_s: training, and all about it.
        opinions, opinions_usd: calls of the generalist and of a judge that learning made.
        specialist_p50_ms, ...: from a call's arrival to its answer's end; None where no call says.
    """

    calls: int
    by_specialist: int
    tokens_in: int
    tokens_out: int
    estimated: int
    all_generalist_usd: float | None
    paid_usd: float | None
    paid_at_todays_price: int
    avoided_usd: float | None
    compute_usd: float | None
    compute_cpu_s: float
    compute_gpu_s: float
    unmeasured: int
    energy_joules: float | None
    audits: int
    audits_usd: float | None
    shadow_usd: float | None
    shadow_cpu_s: float
    shadow_gpu_s: float
    learning_usd: float | None
    learning_cpu_s: float
    learning_gpu_s: float
    opinions: int
    opinions_usd: float | None
    specialist_p50_ms: float | None
    specialist_p95_ms: float | None
    generalist_p50_ms: float | None
    generalist_p95_ms: float | None
    specialist_timed: int
    generalist_timed: int

    @property
    def saved_usd(self) -> float | None:
        """By specialists, after what they cost to run and to watch; before learning."""
        spent = plus(self.compute_usd, self.audits_usd, self.shadow_usd)
        return None if self.avoided_usd is None or spent is None else self.avoided_usd - spent

    @property
    def spent_on_learning_usd(self) -> float | None:
        return plus(self.learning_usd, self.opinions_usd)

    @property
    def net_usd(self) -> float | None:
        """Saved, less what learning cost."""
        saved, learning = self.saved_usd, self.spent_on_learning_usd
        return None if saved is None or learning is None else saved - learning

    @property
    def even_after_calls(self) -> int | None:
        """After so many calls learning is earned back, at what a call has saved so far; None where that is unknown or never."""
        saved, learning = self.saved_usd, self.spent_on_learning_usd
        if saved is None or learning is None or saved <= 0 or not self.calls:
            return None
        return math.ceil(learning * self.calls / saved)

    @property
    def answered_share(self) -> float:
        return self.by_specialist / self.calls if self.calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "saved_usd": self.saved_usd,
            "spent_on_learning_usd": self.spent_on_learning_usd,
            "net_usd": self.net_usd,
            "even_after_calls": self.even_after_calls,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """By task (`NO_TASK` for calls of none), and in all. `stand_ins`: generalists that are none; see `Ledger`."""

    tasks: Mapping[TaskId, Account]
    total: Account
    price: Price | None
    hours: float | None
    first: float | None
    last: float | None
    of_agents: int
    stand_ins: Sequence[str]


def make_accounts(
    ledger: Ledger,
    expenses: Iterable[Expense],
    *,
    price: Price | None,
    rates: Rates,
    cores: Mapping[TaskId, float] | None = None,
) -> Accounts:
    """Put prices on a ledger and on what was spent beside it.

    Args:
        cores: that a replica of the task's specialist holds; 1 where it does not say.
    """
    spent: dict[TaskId, list[Expense]] = {}
    for expense in expenses:
        spent.setdefault(expense.task_id, []).append(expense)
    found: dict[TaskId, Account] = {}
    for task_id in {**ledger.sums, **spent}:
        sums = ledger.sums.get(task_id, Sums())
        held = max(1.0, (cores or {}).get(task_id, 1.0))
        found[task_id] = account(sums, spent.get(task_id, []), price=price, rates=rates, cores=held)
    whole = ledger.total()
    return Accounts(
        tasks=found,
        total=_total(found.values(), whole),
        price=price,
        hours=ledger.hours,
        first=whole.first,
        last=whole.last,
        of_agents=ledger.of_agents,
        stand_ins=ledger.stand_ins,
    )


def account(
    sums: Sums, expenses: Sequence[Expense], *, price: Price | None, rates: Rates, cores: float = 1.0
) -> Account:
    """One task's."""
    audits, shadows = _of(expenses, "audit"), _of(expenses, "shadow")
    learning, opinions = _of(expenses, "learning"), _of(expenses, *_OPINIONS)
    took = _merged(sums.compute.values())
    shadow, trained = _merged(e.compute for e in shadows), _merged(e.compute for e in learning)
    tokens_in = sums.specialist_in + sums.generalist_in
    tokens_out = sums.specialist_out + sums.generalist_out
    joules = [e.energy_joules for e in expenses if e.energy_joules is not None]
    return Account(
        calls=sums.calls,
        by_specialist=sums.by_specialist,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        estimated=sums.estimated,
        all_generalist_usd=_priced(price, tokens_in, tokens_out),
        paid_usd=plus(sums.paid_usd, _priced(price, sums.unpriced_in, sums.unpriced_out)),
        paid_at_todays_price=sums.unpriced,
        avoided_usd=_priced(price, sums.specialist_in, sums.specialist_out),
        compute_usd=plus(*(rates.usd(c, tier, cores=cores) for tier, c in sums.compute.items())),
        compute_cpu_s=took.cpu_ms / 1000,
        compute_gpu_s=took.gpu_ms / 1000,
        unmeasured=sums.unmeasured,
        energy_joules=sums.energy_joules + sum(joules) if sums.metered or joules else None,
        audits=sum(e.calls for e in audits),
        audits_usd=plus(*(_charged(e, price) for e in audits)),
        shadow_usd=rates.usd(shadow, cores=cores),
        shadow_cpu_s=shadow.cpu_ms / 1000,
        shadow_gpu_s=shadow.gpu_ms / 1000,
        learning_usd=rates.usd(trained),
        learning_cpu_s=trained.cpu_ms / 1000,
        learning_gpu_s=trained.gpu_ms / 1000,
        opinions=sum(e.calls for e in opinions),
        # the generalist's price says nothing of a judge's
        opinions_usd=plus(*(_charged(e, price if e.kind == "again" else None) for e in opinions)),
        specialist_p50_ms=sums.specialist_ms.quantile(0.5),
        specialist_p95_ms=sums.specialist_ms.quantile(0.95),
        generalist_p50_ms=sums.generalist_ms.quantile(0.5),
        generalist_p95_ms=sums.generalist_ms.quantile(0.95),
        specialist_timed=sums.specialist_ms.count,
        generalist_timed=sums.generalist_ms.count,
    )


def _total(accounts: Iterable[Account], whole: Sums) -> Account:
    """Added up, so that what is unknown of one task is unknown in all; quantiles over all calls."""
    parts = list(accounts)

    def known(name: str) -> Any:
        return plus(*(getattr(part, name) for part in parts))

    def counted(name: str) -> Any:
        return sum(getattr(part, name) for part in parts)

    joules = [part.energy_joules for part in parts if part.energy_joules is not None]
    latencies: dict[str, Latencies] = {"specialist": whole.specialist_ms, "generalist": whole.generalist_ms}
    times: dict[str, Any] = {
        f"{who}_p{q}_ms": ms.quantile(q / 100) for who, ms in latencies.items() for q in (50, 95)
    }
    timed: dict[str, Any] = {f"{who}_timed": ms.count for who, ms in latencies.items()}
    return Account(
        **{name: counted(name) for name in _COUNTED},
        **{name: known(name) for name in _AMOUNTS},
        energy_joules=sum(joules) if joules else None,
        **times,
        **timed,
    )


_AMOUNTS = (
    "all_generalist_usd",
    "paid_usd",
    "avoided_usd",
    "compute_usd",
    "audits_usd",
    "shadow_usd",
    "learning_usd",
    "opinions_usd",
)
_COUNTED = (
    "calls",
    "by_specialist",
    "tokens_in",
    "tokens_out",
    "estimated",
    "paid_at_todays_price",
    "compute_cpu_s",
    "compute_gpu_s",
    "unmeasured",
    "audits",
    "shadow_cpu_s",
    "shadow_gpu_s",
    "learning_cpu_s",
    "learning_gpu_s",
    "opinions",
)


def _of(expenses: Sequence[Expense], *kinds: str) -> list[Expense]:
    return [e for e in expenses if e.kind in kinds]


def _merged(computes: Iterable[Compute]) -> Compute:
    out = Compute()
    for compute in computes:
        out.merge(compute)
    return out


def _priced(price: Price | None, tokens_in: int, tokens_out: int) -> float | None:
    """0 where there is nothing to pay for, whatever the price."""
    if not tokens_in and not tokens_out:
        return 0.0
    return None if price is None else price.of(tokens_in, tokens_out)


def _charged(expense: Expense, price: Price | None) -> float | None:
    """What the calls of an expense cost: as they were priced then, else at today's price."""
    if not expense.unpriced:
        return expense.usd
    if price is None:
        return None
    # tokens are kept for all its calls together
    share = expense.unpriced / expense.calls
    return expense.usd + share * price.of(expense.prompt_tokens, expense.completion_tokens)


__all__ = ["NO_TASK", "Account", "Accounts", "Rates", "account", "make_accounts", "plus", "price_of"]
