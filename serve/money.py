"""Money and time of a data folder, for commands, the report and `shoal status`: accounts by task, and where each task is best done.

Owns what is read for it: traces (each file once), what was spent beside the calls, versions, and the placement that a site last said. Loads
no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.accounts import Account, Accounts, Rates, make_accounts, price_of
from shoal.agents.feedback.expenses import SqlExpenses
from shoal.agents.feedback.ledger import NO_TASK, Compute, Expense, Ledger
from shoal.agents.feedback.ledger_reading import LedgerReader, Sections
from shoal.agents.feedback.tier_advice import TIERS, Advice, Offer, Use, advise
from shoal.agents.registry.records import Task, TaskId, Version
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.snapshot import LIVE_STATES
from shoal.agents.tasks.corrections import is_hidden
from shoal.cluster.placement import NodeState
from shoal.config import Config
from shoal.errors import SiteError
from shoal.home import Home
from shoal.serve.nodes_status import node_states, read_placement
from shoal.serve.placing import demand_of, folder_mb

DAY_S = 86_400.0
#: traces that `shoal status` reads at most; for more it says where to ask
STATUS_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All that is known of a data folder's money.

    Attributes:
        advice: by task.
        nodes_known: a site that runs or ran here has said which nodes there are.
    """

    accounts: Accounts
    tasks: Mapping[TaskId, Task]
    advice: Mapping[TaskId, Advice]
    nodes_known: bool

    def name(self, task_id: TaskId) -> str:
        if task_id == NO_TASK:
            return "(no task)"
        task = self.tasks.get(task_id)
        return str(task_id) if task is None else task.name

    def ordered(self) -> list[tuple[TaskId, Account]]:
        """Most calls first; those of no task last."""
        return sorted(
            self.accounts.tasks.items(),
            key=lambda item: (item[0] == NO_TASK, -item[1].calls, self.name(item[0])),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; unknown amounts are null."""
        accounts = self.accounts
        price = accounts.price
        return {
            "since": accounts.first,
            "until": accounts.last,
            "hours": accounts.hours,
            "price_usd_per_million_tokens": None
            if price is None
            else {"in": price.tokens_in, "out": price.tokens_out},
            "stand_ins": list(accounts.stand_ins),
            "answered_by_plans": accounts.of_agents,
            "total": accounts.total.to_dict(),
            "tasks": [
                {
                    "id": str(task_id),
                    "name": self.name(task_id),
                    **account.to_dict(),
                    "advice": self.advice[task_id].to_dict() if task_id in self.advice else None,
                }
                for task_id, account in self.ordered()
            ],
        }


def read_books(
    home: Home,
    registry: SqlRegistry,
    store: Sections,
    config: Config,
    *,
    since: float = float("-inf"),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Books:
    """Everything since a moment (seconds since the epoch). What was spent beside the calls is kept by the day (UTC)."""
    tasks = registry.tasks()
    ledger = LedgerReader(store, tasks, home.ledger).read(since=since, progress=progress)
    return make_books(
        home,
        ledger,
        tasks=tasks,
        versions=registry.versions(),
        expenses=SqlExpenses(registry.database).all(),
        config=config,
        price=price_of(config),
        since=since,
    )


def books_at_hand(
    home: Home, registry: SqlRegistry, store: Sections, config: Config, *, most_rows: int = STATUS_ROWS
) -> Books | None:
    """The same where little has to be read for it; None where it would take long."""
    reader = LedgerReader(store, registry.tasks(), home.ledger)
    return None if reader.rows_to_read() > most_rows else read_books(home, registry, store, config)


def make_books(
    home: Home,
    ledger: Ledger,
    *,
    tasks: Sequence[Task],
    versions: Sequence[Version],
    expenses: Sequence[Expense],
    config: Config,
    price: Price | None,
    since: float = float("-inf"),
) -> Books:
    """Of a ledger that was read already. `expenses`: all there are; those of the days before `since` are left out."""
    shown = {task.id: task for task in tasks if not is_hidden(task)}
    chosen = {
        task_id: version
        for task_id in shown
        if (version := shown_version([v for v in versions if v.task_id == task_id])) is not None
    }
    rates = Rates.from_config(config)
    accounts = make_accounts(
        ledger,
        # they are kept by the day, under its first moment
        [e for e in (*expenses, *_uncounted(expenses, versions)) if e.at > since - DAY_S],
        price=price,
        rates=rates,
        cores={task_id: float(v.needs.get("cpus") or 1.0) for task_id, v in chosen.items()},
    )
    offers = read_offers(home, config)
    local = config.generalist is not None and config.generalist.local
    advice = {
        task_id: advise(
            use_of(home, task, chosen.get(task_id), ledger, accounts, config),
            offers,
            price=price,
            rates=rates,
            generalist_local=local,
        )
        for task_id, task in shown.items()
    }
    known = any(offer.nodes is not None for offer in offers)
    return Books(accounts=accounts, tasks=shown, advice=advice, nodes_known=known)


def _uncounted(expenses: Sequence[Expense], versions: Sequence[Version]) -> list[Expense]:
    """Training of tasks that no expense tells of, as their versions' evidence does: they were learnt before expenses were kept."""
    counted = {e.task_id for e in expenses if e.kind == "learning"}
    return [
        Expense(
            kind="learning",
            task_id=version.task_id,
            at=version.created_at,
            compute=Compute(cpu_ms=1000 * float(costs.get("core_seconds") or 0.0)),
        )
        for version in versions
        if version.task_id not in counted and (costs := version.evidence.get("costs") or {})
    ]


def shown_version(versions: Sequence[Version]) -> Version | None:
    """The version that answers, or would next; else the newest."""
    live = [v for state in LIVE_STATES for v in versions if v.state == state]
    return live[0] if live else versions[-1] if versions else None


def use_of(
    home: Home,
    task: Task,
    version: Version | None,
    ledger: Ledger,
    accounts: Accounts,
    config: Config,
) -> Use:
    """What the logged calls say of a task's use."""
    sums, account = ledger.sums.get(task.id), accounts.tasks.get(task.id)
    calls = 0 if account is None else account.calls
    ready = version is not None and version.state in LIVE_STATES and not task.excluded
    demand = None
    if version is not None:
        demand = demand_of(version, task.name, config.placement, folder_mb(home.models / version.folder))
    evidence: Mapping[str, Any] = {} if version is None else version.evidence
    figures = (evidence.get("gate") or {}).get("figures") or {}
    compute_ms = (evidence.get("costs") or {}).get("answer_ms")
    on_gpu = False
    if account is not None and sums is not None and sums.asked:
        # what was measured in serving says more than what was on the machine that learnt it
        on_gpu = account.compute_gpu_s > account.compute_cpu_s
        compute_ms = 1000 * (account.compute_cpu_s + account.compute_gpu_s) / sums.asked
    return Use(
        ready=ready,
        why_not="excluded by the owner" if task.excluded else task.reason,
        calls_per_hour=None if accounts.hours is None else calls / accounts.hours,
        coverage=float((figures.get("coverage") or {}).get("value") or 0.0),
        compute_ms=compute_ms,
        on_gpu=on_gpu,
        own_replica=demand is not None and not demand.small,
        cores=1.0 if demand is None else max(1.0, demand.needs.cpus),
        gpus=0.0 if demand is None or demand.small else demand.needs.gpus,
        memory_mb=None if demand is None else demand.needs.memory_mb,
        local_only=(demand is not None and demand.private) or (sums is not None and sums.local_only > 0),
        prompt_tokens=0.0 if not calls or account is None else account.tokens_in / calls,
        completion_tokens=0.0 if not calls or account is None else account.tokens_out / calls,
        deadline_ms=1000 * config.serve.specialist_deadline_s,
        generalist_p95_ms=None if account is None else account.generalist_p95_ms,
    )


def read_offers(home: Home, config: Config) -> list[Offer]:
    """What the tiers have, as the site that runs here last said; unknown where none ever ran."""
    try:
        nodes: list[NodeState] | None = [
            n for n in node_states(read_placement(home.placement_status)) if n.alive
        ]
    except SiteError:
        nodes = None
    offers = []
    for tier in TIERS:
        costs = config.costs.tiers.get(tier)
        trip = None if costs is None else costs.round_trip_ms
        if nodes is None:
            offers.append(Offer(tier=tier, round_trip_ms=trip))
            continue
        own = [n for n in nodes if n.tier == tier]
        free = [float(n.reading.host.memory_available_mb) for n in own if n.reading is not None]
        offers.append(
            Offer(
                tier=tier,
                nodes=len(own),
                free_memory_mb=max(free, default=None),
                gpus=sum(n.gpus for n in own),
                round_trip_ms=trip,
            )
        )
    return offers
