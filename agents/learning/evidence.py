"""What a version's evidence says beside its verdict: figures by output kind, coverage against alpha, costs, and which calls to look at.

Of calls it keeps ids only, never texts, so that a trace that is erased vanishes from every report. Knows no kind of model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import fisher_exact

from shoal.agents.contract.break_even import Price, TaskCost, break_even
from shoal.agents.contract.calibrate import calibrate
from shoal.agents.contract.figures import share
from shoal.agents.contract.gate import HeldOut
from shoal.agents.contract.loss import SlotChecker, canonical_tool_calls
from shoal.agents.contract.measures import (
    CalledFunction,
    Measures,
    call_measures,
    json_measures,
    label_measures,
    text_measures,
)
from shoal.agents.learning.answers import MIN_CALLS_PER_ANSWER, answer_key
from shoal.agents.learning.training import Example
from shoal.agents.learning.volume import Volume
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind
from shoal.config import Config

#: for each of these the coverage that could be promised is kept
ALPHAS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)
_MOST_WRONG = 12
_MOST_OTHERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """Held-out calls, what the specialist said to each, and what that is worth."""

    examples: Sequence[Example]
    answers: Sequence[SpecialistAnswer]
    held_out: Sequence[HeldOut]

    def only(self, ids: Collection[str]) -> Examined:
        """Those of these calls."""
        places = [i for i, example in enumerate(self.examples) if example.id in ids]
        return Examined(
            examples=[self.examples[i] for i in places],
            answers=[self.answers[i] for i in places],
            held_out=[self.held_out[i] for i in places],
        )


def measure(
    loss: OutputKind,
    examined: Examined,
    train: Sequence[Example],
    *,
    calling: frozenset[str],
    slots: SlotChecker | None = None,
) -> Measures:
    """Figures of the output kind over all held-out calls, whether or not the specialist is sure of them.

    Args:
        train: what it learnt from; answers that are common there may be named.
        calling: ids of the calls that a function call should answer, whose example's content is its canonical form.
    """
    examples, answers = examined.examples, examined.answers
    expected = [e.content for e in examples]
    given = [a.content for a in answers]
    if calling:
        return call_measures(
            [_called(e.content) if e.id in calling else () for e in examples],
            [_called(canonical_tool_calls(getattr(a, "tool_calls", ()) or ())) for a in answers],
        )
    if loss == OutputKind.JSON:
        return json_measures(expected, given)
    if loss == OutputKind.TEXT:
        errors = None
        if slots is not None:
            errors = [slots.errors(e.request, g or "") for e, g in zip(examples, given, strict=True)]
        return text_measures(expected, given, errors)
    counts = Counter(answer_key(e.content) for e in train)
    known = [label for label, count in counts.items() if count >= MIN_CALLS_PER_ANSWER]
    return label_measures(expected, given, known=known)


def _called(canonical: str) -> tuple[CalledFunction, ...]:
    return tuple((str(name), str(arguments)) for name, arguments in json.loads(canonical))


def held_out_and_calibration(
    held_out: Sequence[HeldOut], calibration: Sequence[HeldOut]
) -> dict[str, dict[str, float | int] | float]:
    """Right of all answers, as a figure, on the calls that the gate looks at and on those that calibrate.

    Where the gate's calls are the latest of the log, `p` (Fisher's exact test, two-sided) tells whether the traffic has moved: the
    contract is shown on calls of the whole log, the gate's are what came last. The gate's answers are those of a training that knew
    a tenth less, where the winner was trained once more.
    """
    rows = [[sum(not h.wrong for h in part), len(part)] for part in (held_out, calibration)]
    table = [[right, of - right] for right, of in rows]
    return {
        "held_out": share(*rows[0]).to_dict(),
        "calibration": share(*rows[1]).to_dict(),
        "p": float(fisher_exact(table).pvalue) if all(of for _, of in rows) else 1.0,
    }


def calls_to_show(examined: Examined, threshold: float) -> dict[str, list[dict[str, Any]]]:
    """Ids of a few held-out calls with the specialist's confidence: `wrong` (the surest mistakes first), `right`, `unsure`."""
    rows = sorted(
        zip(examined.examples, examined.held_out, strict=True), key=lambda r: (-r[1].confidence, r[0].id)
    )

    def named(kept: Sequence[tuple[Example, HeldOut]]) -> list[dict[str, Any]]:
        return [{"id": e.id, "confidence": round(h.confidence, 4)} for e, h in kept]

    sure = [r for r in rows if r[1].confidence >= threshold]
    right = [r for r in sure if not r[1].wrong]
    # spread over the confidences rather than the surest alone, which look alike
    step = max(1, len(right) // _MOST_OTHERS)
    return {
        # what gives no answer has no confidence, and is no mistake to look at
        "wrong": named([r for r in rows if r[1].wrong and r[1].confidence > 0][:_MOST_WRONG]),
        "right": named(right[::step][:_MOST_OTHERS]),
        "unsure": named([r for r in rows if r[1].confidence < threshold][:_MOST_OTHERS]),
    }


def coverage_by_alpha(
    held: Sequence[HeldOut], delta: float, *, start_share: float, groups: Sequence[Hashable] | None = None
) -> list[list[float]]:
    """[alpha, coverage] for each of `ALPHAS`: what share of the calls could be answered under that contract. 0 where none holds.

    `groups`: as in `calibrate`.
    """
    confidences, wrong = [h.confidence for h in held], [h.wrong for h in held]
    out = []
    for alpha in ALPHAS:
        found = calibrate(confidences, wrong, alpha, delta, start_share=start_share, groups=groups)
        out.append([alpha, found.coverage if found.feasible else 0.0])
    return out


def costs(
    *, core_seconds: float, answer_ms: float | None, coverage: float, volume: Volume, config: Config
) -> dict[str, Any]:
    """What learning cost and what a call costs, and when it is even where the generalist's price is known."""
    cost = TaskCost(
        learning_s=core_seconds,
        answer_ms=answer_ms or 0.0,
        coverage=coverage,
        prompt_tokens=volume.mean_prompt_tokens,
        completion_tokens=volume.mean_completion_tokens,
        calls_per_day=volume.calls_per_day,
    )
    generalist = config.generalist
    even = None
    if generalist is not None and (generalist.price_in or generalist.price_out):
        price = Price(tokens_in=generalist.price_in, tokens_out=generalist.price_out)
        even = break_even(cost, price, core_hour_usd=config.learning.core_hour_usd).to_dict()
    return {
        "core_seconds": round(core_seconds, 2),
        "core_hour_usd": config.learning.core_hour_usd,
        "answer_ms": answer_ms,
        "prompt_tokens": round(volume.mean_prompt_tokens, 1),
        "completion_tokens": round(volume.mean_completion_tokens, 1),
        "tokens_estimated": volume.estimated,
        "calls_per_day": volume.calls_per_day,
        "break_even": even,
    }
