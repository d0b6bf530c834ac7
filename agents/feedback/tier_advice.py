"""Where a task is best done, by its use: by a specialist on a tier, or by the generalist. Pure; says why, and why not elsewhere.

A specialist is asked for every call of its task, and the generalist still answers those that it is not sure of. So a call costs its compute
and, for the share that is not covered, the generalist. A specialist with a replica of its own is paid for around the clock, however few calls
there are. Advice is advice: placement decides by telemetry, `placement.tier` overrules both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.accounts import Rates
from shoal.agents.feedback.ledger import Compute

Tier: TypeAlias = Literal["local", "edge", "cloud"]
#: where costs are equal, data travels least to the first
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
GENERALIST: Final = "generalist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How a task is used, and what its specialist needs.

    Attributes:
        ready: it has a specialist that passed its gate; `why_not` says why it has none.
        calls_per_hour: None where the log is too short to say.
        coverage: share of its calls that the specialist answers.
        compute_ms: of the specialist for one call; `on_gpu`: of a GPU.
        own_replica: it does not share a host with others, and holds `cores` and `gpus` around the clock.
        local_only: some of its calls have that label.
        prompt_tokens, completion_tokens: of the mean call.
        deadline_ms: a specialist that takes longer is not waited for.
        generalist_p95_ms: None where unknown.
    """

    ready: bool
    why_not: str = ""
    calls_per_hour: float | None = None
    coverage: float = 0.0
    compute_ms: float | None = None
    on_gpu: bool = False
    own_replica: bool = False
    cores: float = 1.0
    gpus: float = 0.0
    memory_mb: float | None = None
    local_only: bool = False
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    deadline_ms: float | None = None
    generalist_p95_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a tier has.

    Attributes:
        nodes: alive; None where no site says.
        free_memory_mb: of the node with the most; None where unknown.
        gpus: in all its nodes; None where no site says.
        round_trip_ms: from the callers and back; None where nobody measured it.
    """

    tier: Tier
    nodes: int | None = None
    free_memory_mb: float | None = None
    gpus: float | None = None
    round_trip_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`tier`: a tier, or `generalist`. `call_usd`: what a call of the task costs by each that is possible; None where unknown.

    `rejected`: whoever cannot do it -> why not.
    """

    tier: str
    reasons: tuple[str, ...]
    call_usd: Mapping[str, float | None] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def advise(
    use: Use, offers: Sequence[Offer], *, price: Price | None, rates: Rates, generalist_local: bool = False
) -> Advice:
    """Advice for one task.

    Args:
        generalist_local: the generalist runs on this very machine, so that `local-only` calls may go to it.
    """
    # no call was seen: what one costs is not known
    seen = use.prompt_tokens or use.completion_tokens
    generalist_usd = None if price is None or not seen else price.of(use.prompt_tokens, use.completion_tokens)
    call_usd: dict[str, float | None] = {GENERALIST: generalist_usd}
    if not use.ready:
        why = use.why_not or "nothing was trained for it yet: shoal learn"
        return Advice(tier=GENERALIST, reasons=(why,), call_usd=call_usd)
    rejected: dict[str, str] = {}
    possible: list[Offer] = []
    for offer in sorted(offers, key=lambda o: TIERS.index(o.tier)):
        if why_not := _why_not(use, offer):
            rejected[offer.tier] = why_not
            continue
        possible.append(offer)
        call_usd[offer.tier] = _call_usd(use, offer.tier, generalist_usd, rates)
    if use.local_only and not generalist_local:
        rejected[GENERALIST] = "it may not see `local-only` calls, and some are"
    if not possible:
        return Advice(
            tier=GENERALIST, reasons=("no tier can run its specialist",), call_usd=call_usd, rejected=rejected
        )
    return _among(use, possible, call_usd, rejected)


def _among(
    use: Use, possible: Sequence[Offer], call_usd: Mapping[str, float | None], rejected: Mapping[str, str]
) -> Advice:
    """The cheapest of those that can; the nearest where costs are equal or unknown."""

    def order(offer: Offer) -> tuple[float, float, int]:
        usd = call_usd[offer.tier]
        trip = 0.0 if offer.round_trip_ms is None else offer.round_trip_ms
        return (float("inf") if usd is None else usd, trip, TIERS.index(offer.tier))

    best = min(possible, key=order)
    usd, generalist_usd = call_usd[best.tier], call_usd[GENERALIST]
    often = "" if use.calls_per_hour is None else f"{use.calls_per_hour:,.1f} calls an hour, of which "
    reasons = [f"{often}its specialist answers {use.coverage:.1%}"]
    if (
        usd is not None
        and generalist_usd is not None
        and usd >= generalist_usd
        and GENERALIST not in rejected
    ):
        return Advice(
            tier=GENERALIST,
            reasons=(*_why_dear(use, best.tier, usd, generalist_usd),),
            call_usd=call_usd,
            rejected=rejected,
        )
    reasons.append(_why_here(best.tier, [o.tier for o in possible], call_usd))
    if usd is not None and generalist_usd:
        reasons.append(
            f"1,000 calls cost {money(1000 * usd)} there, {money(1000 * generalist_usd)} by the large model alone"
        )
    elif generalist_usd is None:
        reasons.append("the large model's price is not known, so costs are not compared with it")
    if use.local_only:
        reasons.append("some of its calls are `local-only`")
    if use.compute_ms is not None and use.generalist_p95_ms is not None:
        faster = use.compute_ms + (best.round_trip_ms or 0.0)
        if faster < use.generalist_p95_ms:
            reasons.append(
                f"an answer takes {faster:,.0f} ms of work, the large model up to {use.generalist_p95_ms:,.0f} ms"
            )
    return Advice(tier=best.tier, reasons=tuple(reasons), call_usd=call_usd, rejected=rejected)


def _why_not(use: Use, offer: Offer) -> str:
    """Why a tier cannot do it; empty where it can."""
    if use.local_only and offer.tier == "cloud":
        return "some of its calls are `local-only`"
    if offer.nodes == 0:
        return "there is no node of this tier"
    if (
        use.memory_mb is not None
        and offer.free_memory_mb is not None
        and offer.free_memory_mb < use.memory_mb
    ):
        return (
            f"it takes {use.memory_mb:,.0f} MB, and no node has more than {offer.free_memory_mb:,.0f} MB free"
        )
    if use.gpus and offer.gpus is not None and offer.gpus < use.gpus:
        return f"it takes {use.gpus:g} GPU, and the tier has {offer.gpus:g}"
    if use.compute_ms is not None and use.deadline_ms is not None:
        took = use.compute_ms + (offer.round_trip_ms or 0.0)
        if took > use.deadline_ms:
            return f"an answer takes {took:,.0f} ms with the way there, and is waited for {use.deadline_ms:,.0f} ms"
    return ""


def _call_usd(use: Use, tier: str, generalist_usd: float | None, rates: Rates) -> float | None:
    """What a call of the task costs with the specialist on a tier; None where a price or a figure is missing."""
    if generalist_usd is None and use.coverage < 1:
        return None
    rest = (1 - use.coverage) * (generalist_usd or 0.0)
    if use.own_replica:
        held = _held_hour_usd(use, tier, rates)
        if held is None or not use.calls_per_hour:
            return None
        return held / use.calls_per_hour + rest
    if use.compute_ms is None:
        return None
    took = Compute(gpu_ms=use.compute_ms) if use.on_gpu else Compute(cpu_ms=use.compute_ms)
    computed = rates.usd(took, tier, cores=use.cores)
    return None if computed is None else computed + rest


def _held_hour_usd(use: Use, tier: str, rates: Rates) -> float | None:
    """What a replica of its own costs in an hour."""
    hour = 3.6e6
    return rates.usd(Compute(cpu_ms=hour * use.cores, gpu_ms=hour * use.gpus), tier)


def _why_dear(use: Use, tier: str, usd: float, generalist_usd: float) -> list[str]:
    reasons = [
        f"1,000 calls would cost {money(1000 * usd)} on {tier}, the cheapest tier, and cost {money(1000 * generalist_usd)} now"
    ]
    if use.own_replica and use.calls_per_hour and use.coverage:
        held = (usd - (1 - use.coverage) * generalist_usd) * use.calls_per_hour
        needed = held / (use.coverage * generalist_usd)
        reasons.append(
            f"its own replica costs {money(held)} an hour; that pays from {needed:,.0f} calls an hour on, and there are "
            f"{use.calls_per_hour:,.1f}"
        )
    return reasons


def _why_here(tier: str, possible: Sequence[str], call_usd: Mapping[str, float | None]) -> str:
    if len(possible) == 1:
        return f"{tier} is the only tier that can run it"
    known = [usd for other in possible if (usd := call_usd[other]) is not None]
    own = call_usd[tier]
    if (
        own is not None
        and known
        and all(usd > own for other in possible if other != tier and (usd := call_usd[other]) is not None)
    ):
        return f"{tier} is the cheapest tier that can run it"
    return (
        f"no tier is cheaper than {tier}, and data travels least to it"
        if own is not None
        else (f"what a call costs is not known, and data travels least to {tier}")
    )


def money(usd: float) -> str:
    """For people."""
    if usd >= 1 or usd == 0:
        return f"{usd:,.2f} USD"
    return f"{usd:.3g} USD" if usd >= 0.001 else "less than 0.001 USD"
