"""How often the sequential tests cry wolf, and how many calls pass until a version that went bad is taken back.

**False alarms**: versions that are wrong on exactly alpha of their answers, each watched over 10,000 calls as a site does
(`agents/contract/sequential.py`; the replays are computed all at once, and a few of them by the site's own code too), with every call audited, and one in twenty. Beside it the worst that feedback can do (every wrong
answer is contradicted), and the watch over inputs (`drift.py`) on calls like those of calibration.

**Power**: calls from a fault to the alarm, median over replays, after `CALM` calls without one. First for a given share of wrong answers;
then for a classifier of bank intents, whose held-out calls come in any order, with replacement, as often as wanted: the generalist says
another label for one intent, which makes a share of the traffic; inputs are misspelt, cut or of another kind of work; weights are
broken. A fault that leaves the contract kept, because the specialist turns unsure, is rightly no reason to go back; the watch over inputs
may see it. Where no alarm came within `MOST` calls in half of the replays the figure is skipped, and says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _bench import Bench, main
from _contract_faults import (
    Specialist,
    World,
    load,
    masked,
    misspelt,
    noisy,
    shuffled,
    train,
    with_inputs,
    zeroed,
)
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from shoal.agents.contract.drift import BINS, LEVEL, InputWatch, bin_of
from shoal.agents.contract.sequential import (
    FEEDBACK_SHARE,
    Block,
    RiskTest,
    Wager,
    feedback_e_value,
    kept_back,
    risk_factors,
)

ALPHA = DELTA = 0.05
CALLS = 10_000
#: calls before the fault, and at most after it
CALM, MOST = 2_000, 10_000
SHARES = (0.02, 0.05, 0.2, 1.0)
#: the share of wrong answers before a fault, in the synthetic part
GOOD_RISK = 0.02
Flags = NDArray[np.bool_]


# -- false alarms


def alarm(wrong: Flags) -> int:
    """At which audited answer the site's own code alarms, from 1; 0 for never."""
    wager = Wager()
    factors = {flag: risk_factors(ALPHA, flag) for flag in (False, True)}
    for place, flag in enumerate(wrong.tolist(), start=1):
        wager = wager.after(factors[flag])
        if RiskTest(audits=wager).breaks(DELTA):
            return place
    return 0


def alarms(replays: Sequence[Flags]) -> list[int]:
    """`alarm` of each, all at once. Raises RuntimeError where the two do not agree on the first few."""
    longest = max(map(len, replays))
    wrong = np.zeros((len(replays), longest), dtype=bool)
    for row, own in zip(wrong, replays, strict=True):
        row[: len(own)] = own
    up, down = (np.array(risk_factors(ALPHA, flag)) for flag in (True, False))
    capitals = np.zeros((len(replays), len(up)))
    found = np.zeros(len(replays), dtype=int)
    for place in range(1, longest + 1):
        laid = kept_back(place) - kept_back(place + 1)
        capitals = np.minimum((capitals + laid) * np.where(wrong[:, place - 1, None], up, down), 1e250)
        audits = kept_back(place + 1) + capitals.mean(axis=1)
        over = (1 - FEEDBACK_SHARE) * audits + FEEDBACK_SHARE >= 1 / DELTA
        found[over & (found == 0)] = place
        if found.all():
            break
    out = [int(at) if at <= len(own) else 0 for at, own in zip(found, replays, strict=True)]
    for at, own in list(zip(out, replays, strict=True))[:3]:
        if alarm(own) != at:
            raise RuntimeError(f"The site's code alarms at {alarm(own)}, the benchmark at {at}.")
    return out


def plain_alarms(replays: Sequence[Flags]) -> list[int]:
    """As `alarms`, had all of the capital been laid at the start: the usual mixture of bets."""
    steps = np.log([risk_factors(ALPHA, flag) for flag in (False, True)])
    out = []
    for wrong in replays:
        capitals = np.cumsum(steps[wrong.astype(int)], axis=0)
        over = np.flatnonzero(np.mean(np.exp(np.minimum(capitals, 500.0)), axis=1) >= 1 / DELTA)
        out.append(int(over[0]) + 1 if over.size else 0)
    return out


def feedback_alarms(wrong: Flags, block: int) -> bool:
    """Whether feedback alone alarms, where all wrong answers are contradicted; looked at after every block."""
    blocks: list[Block] = []
    for start in range(0, len(wrong), block):
        own = wrong[start : start + block]
        blocks.append(Block(len(own), int(own.sum())))
        if RiskTest(feedback=feedback_e_value(blocks, ALPHA)).breaks(DELTA):
            return True
    return False


def measure_false_alarms(bench: Bench) -> None:
    replays = 100 if bench.arguments.quick else 1000
    rng = np.random.default_rng(1)
    bound = DELTA + 2 * float(np.sqrt(DELTA * (1 - DELTA) / replays))
    unit = f"share of {replays} replays of {CALLS:,} calls, risk exactly alpha"
    found = {}
    for share in (1.0, 0.05):
        drawn = [rng.random(round(CALLS * share)) < ALPHA for _ in range(replays)]
        found[share] = float(np.mean(np.array(alarms(drawn)) > 0))
    bench.figure("false_alarm_share", found[1.0], f"{unit}, all audited", at_most=round(bound, 4))
    bench.figure("false_alarm_share_audit_5", found[0.05], f"{unit}, 5% audited", at_most=round(bound, 4))
    spoken = [feedback_alarms(rng.random(CALLS) < ALPHA, 200) for _ in range(replays)]
    bench.figure(
        "false_alarm_share_feedback",
        float(np.mean(spoken)),
        f"{unit}, none audited, every wrong answer contradicted",
        at_most=round(bound, 4),
    )
    few = replays // 10
    bound = LEVEL + 2 * float(np.sqrt(LEVEL * (1 - LEVEL) / few))
    drifted = [watch(rng.beta(8, 2, 500), rng.beta(8, 2, CALLS)) is not None for _ in range(few)]
    bench.figure(
        "false_drift_share",
        float(np.mean(drifted)),
        f"share of {few} replays of {CALLS:,} calls like the 500 of calibration",
        at_most=round(bound, 4),
    )


def watch(calibration: NDArray[np.float64], confidences: NDArray[np.float64]) -> int | None:
    counts = np.bincount([bin_of(c) for c in calibration], minlength=BINS).tolist()
    return drifts(counts, [bin_of(c) for c in confidences])


def drifts(calibration: Sequence[int], bins: Sequence[int], key: str = "replay") -> int | None:
    """After which call the watch over inputs alarms, from 1, to within a batch of 50."""
    state = InputWatch()
    for start in range(0, len(bins), 50):
        state = state.after(calibration, bins[start : start + 50], key=f"{key}{start}", at=float(start + 50))
        if state.drifted_at is not None:
            return int(state.drifted_at)
    return None


# -- power


def measure_power(bench: Bench) -> None:
    """By the share of wrong answers alone."""
    replays = 30 if bench.arguments.quick else 100
    rng = np.random.default_rng(2)
    rows = []
    for risk in (0.075, 0.1, 0.2, 0.5):
        found = {}
        for share in SHARES:
            flags = [_flags(rng, GOOD_RISK, risk) for _ in range(replays)]
            found[share] = median(_until(flags, share, rng))
            name = f"calls_until_rollback_risk_{risk * 100:g}_audit_{share * 100:g}"
            publish(bench, name, found[share], replays)
        rows.append((f"{risk:.1%} wrong", "", "", *(_shown(found[s]) for s in SHARES)))
        plain = {}
        for share in SHARES:
            flags = [_flags(rng, GOOD_RISK, risk) for _ in range(replays)]
            plain[share] = median(_until(flags, share, rng, test=plain_alarms))
        name = f"calls_until_rollback_risk_{risk * 100:g}_audit_100_bets_at_start_only"
        publish(bench, name, plain[1.0], replays)
        rows.append(("bets at the start only", "", "", *(_shown(plain[s]) for s in SHARES)))
    table(f"calls until rollback, after {CALM:,} calls with {GOOD_RISK:.0%} wrong", rows)


def _flags(rng: np.random.Generator, before: float, after: float) -> Flags:
    return np.concatenate([rng.random(CALM) < before, rng.random(MOST) < after])


def _until(
    replays: Sequence[Flags],
    share: float,
    rng: np.random.Generator,
    answered: Sequence[Flags] | None = None,
    test: Callable[[Sequence[Flags]], list[int]] = alarms,
) -> list[float]:
    """Of each replay the calls from the fault to the alarm; infinite where none came, NaN where it came before the fault.

    `replays`, `answered`: of each call whether it is wrong, whether it is answered; `CALM` of them before the fault.
    """
    audited = []
    for place, wrong in enumerate(replays):
        drawn = rng.random(len(wrong)) < share
        if answered is not None:
            drawn &= answered[place]
        audited.append(np.flatnonzero(drawn))
    found = test([wrong[own] for wrong, own in zip(replays, audited, strict=True)])
    out = []
    for at, own in zip(found, audited, strict=True):
        call = int(own[at - 1]) + 1 - CALM if at else 0
        out.append(np.inf if not at else float(call) if call > 0 else np.nan)
    return out


def median(calls: Sequence[float]) -> float:
    """Of the replays whose alarm did not come before the fault; infinite where half of them had none."""
    kept = sorted(c for c in calls if not np.isnan(c))
    return kept[len(kept) // 2] if kept else np.inf


def publish(bench: Bench, name: str, calls: float, replays: int) -> None:
    if np.isfinite(calls):
        bench.figure(name, calls, f"calls, median of {replays} replays")
    else:
        bench.skip([name], f"no alarm within {MOST:,} calls in half of {replays} replays")


# -- power on real calls


@dataclass(frozen=True)
class Fault:
    name: str
    severity: str
    before: World
    after: World
    #: of each call, how likely it comes, before and after
    weights: NDArray[np.float64] | None = None


def measure_real(bench: Bench, data: Path) -> None:
    traces = data / "traces"
    if not all((traces / f"mixed_{part}.jsonl.gz").is_file() for part in ("log", "eval")):
        bench.skip(["calls_until_rollback_labels"], f"no mixed_log or mixed_eval in {traces}; see --data")
        return
    home = getattr(bench.arguments, "home", None)
    specialist = None if home is None else load(data, home)
    if specialist is None:
        specialist = train(data, alpha=ALPHA, delta=DELTA, quick=bench.arguments.quick)
    calm = specialist.world()
    given = calm.confidences >= specialist.threshold
    bench.figure("audit_bank_coverage", float(given.mean()), "share answered, before any fault")
    bench.figure("audit_bank_risk", float(calm.wrong[given].mean()), "share wrong of those answered")
    replays = 30 if bench.arguments.quick else 100
    rng = np.random.default_rng(3)
    rows = []
    for fault in faults(specialist, calm):
        found, drift = replayed(fault, specialist, replays, rng)
        name = f"{fault.name}_{fault.severity}"
        for share in SHARES:
            publish(bench, f"calls_until_rollback_{name}_audit_{share * 100:g}", found[share], replays)
        publish(bench, f"calls_until_drift_{name}", drift, replays // 10)
        answered = fault.after.confidences >= specialist.threshold
        weights = np.ones(len(answered)) if fault.weights is None else fault.weights
        coverage = float(np.average(answered, weights=weights))
        risk = float(np.average(fault.after.wrong, weights=weights * answered)) if answered.any() else 0.0
        rows.append(
            (
                f"{fault.name} {fault.severity}",
                f"{coverage:.0%}",
                f"{risk:.1%}",
                *(_shown(found[s]) for s in SHARES),
                _shown(drift),
            )
        )
    table(f"bank_intent: calls until rollback, after {CALM:,} calm calls", rows, drift=True)


def faults(specialist: Specialist, calm: World) -> Iterator[Fault]:
    rng = np.random.default_rng(4)
    names = sorted(set(calm.right))
    picked = rng.permutation(len(names))[:2]
    old, new = names[picked[0]], names[picked[1]]
    right = [new if label == old else label for label in calm.right]
    replaced = World(calm.confidences, calm.said, right)
    own = np.array([label == old for label in calm.right])
    for share in (float(own.mean()), 0.1, 0.25, 0.5):
        weights = np.where(own, share / own.sum(), (1 - share) / (~own).sum())
        yield Fault("labels", f"{share * 100:.0f}", calm, replaced, weights)
    examples = specialist.held_out
    for share in (0.2, 0.5, 1.0):
        texts = with_inputs(examples, lambda text, _, share=share: misspelt(text, rng, share))
        yield Fault("misspelt", f"{share * 100:.0f}", calm, specialist.world(examples=texts))
    for share in (0.3, 0.6):
        texts = with_inputs(examples, lambda text, _, share=share: masked(text, rng, share))
        yield Fault("masked", f"{share * 100:.0f}", calm, specialist.world(examples=texts))
    for share in (0.1, 0.5):
        yield Fault("strange", f"{share * 100:.0f}", calm, _strange(specialist, rng, share))
    for times in (0.5, 1.0, 2.0):
        broken = noisy(specialist.engine, rng, times)
        yield Fault("noise", f"{times * 100:.0f}", calm, specialist.world(engine=broken))
    for share in (0.1, 0.5):
        broken = shuffled(specialist.engine, rng, share)
        yield Fault("shuffled", f"{share * 100:.0f}", calm, specialist.world(engine=broken))
    broken = zeroed(specialist.engine, rng, 0.5)
    yield Fault("zeroed", "50", calm, specialist.world(engine=broken))


def _strange(specialist: Specialist, rng: np.random.Generator, share: float) -> World:
    """A share of the calls are of another kind of work, and no answer to them is right."""
    strange = rng.random(len(specialist.held_out)) < share
    strangers = specialist.strangers
    texts = with_inputs(
        specialist.held_out,
        lambda text, place: strangers[place % len(strangers)] if strange[place] else text,
    )
    found = specialist.world(examples=texts)
    right = ["(none)" if s else label for s, label in zip(strange, found.right, strict=True)]
    return World(found.confidences, found.said, right)


def replayed(
    fault: Fault, specialist: Specialist, replays: int, rng: np.random.Generator
) -> tuple[dict[float, float], float]:
    count = len(fault.before.right)
    chance = None if fault.weights is None else fault.weights / fault.weights.sum()
    wrong = (fault.before.wrong, fault.after.wrong)
    given = tuple(w.confidences >= specialist.threshold for w in (fault.before, fault.after))
    bins = [np.array([bin_of(c) for c in w.confidences]) for w in (fault.before, fault.after)]
    drift: list[float] = []
    flags, answered = [], []
    for replay in range(replays):
        first, then = (rng.choice(count, size, p=chance) for size in (CALM, MOST))
        flags.append(np.concatenate([wrong[0][first], wrong[1][then]]))
        answered.append(np.concatenate([given[0][first], given[1][then]]))
        if replay < replays // 10:
            seen = np.concatenate([bins[0][first], bins[1][then]]).tolist()
            at = drifts(specialist.calibration, seen, key=str(replay))
            drift.append(np.inf if at is None else np.nan if at <= CALM else float(at - CALM))
    return {share: median(_until(flags, share, rng, answered)) for share in SHARES}, median(drift)


# -- what people see


def _shown(calls: float) -> str:
    return f"{calls:,.0f}" if np.isfinite(calls) else f"> {MOST:,}"


def table(title: str, rows: Sequence[Sequence[str]], *, drift: bool = False) -> None:
    shown = Table(title=title)
    for heading in ("fault", "then answers", "then wrong", *(f"audit {s:.0%}" for s in SHARES)):
        shown.add_column(heading, justify="right")
    if drift:
        shown.add_column("drift seen", justify="right")
    for row in rows:
        shown.add_row(*row)
    Console(stderr=True, width=120).print(shown)


def measure(bench: Bench, data: Path) -> None:
    """`false_alarm_share`, and calls until rollback by fault, severity and audit share."""
    measure_false_alarms(bench)
    measure_power(bench)
    measure_real(bench, data)


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=Path, default=None, help="a site that has learnt mixed_log; else one task is learnt"
    )


def run(bench: Bench) -> None:
    measure(bench, bench.arguments.data)


if __name__ == "__main__":
    main("_contract_audit", "False alarms and power of the contract's audit.", run, more)
