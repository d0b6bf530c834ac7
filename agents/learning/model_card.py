"""A version's model card: the facts that are sealed with its files, and the same as a text for people (Markdown, 80 columns).

Follows the headings of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993), as far as they apply to a
model for one task of one owner. Pure.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shoal.agents.registry.records import Task, Version

README = "README.md"
WIDTH = 80
#: what a version's folder alone knows
_SEALED = ("base", "parents", "licences", "data", "outputs_may_train")

#: what each kind is made with, for people
KINDS = {
    "record_classifier": "gradient-boosted trees over a record's fields",
    "classifier": "a linear classifier over word and character n-grams",
    "fields": "one small model for each field of the answer",
    "micro_lm": "a small language model (Llama architecture)",
}
#: names of figures, for people
FIGURES = {
    "coverage": "answered by it",
    "right_answered": "right, of those answered",
    "right_all": "right, had it answered all",
    "floor_right": "right by looking up the nearest logged call",
    "self_agreement": "generalist agrees with itself",
    "likeness": "likeness to the generalist's texts (chrF)",
    "floor": "likeness of the nearest logged answer (chrF)",
    "above_floor": "likeness above that (chrF)",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "json_valid": "valid JSON",
    "json_exact": "all of the JSON as expected",
    "fields_right": "fields as expected",
    "fields_added": "fields that should not be there",
    "call_or_not": "whether to call at all",
    "no_call": "no call where none is due",
    "function": "the right function",
    "arguments": "all arguments, given the function",
    "argument_values": "single arguments, given the function",
    "call_exact": "function and all arguments",
    "bleu": "BLEU",
    "chrf": "chrF",
    "slot_error": "texts that drop or invent a value",
    "slots_missing": "texts that drop a value",
    "slots_invented": "texts that invent a value",
    "preferred": "judge model prefers the specialist",
    "tied": "judge model sees a tie",
    "generalist_preferred": "judge model prefers the generalist",
}


def card_facts(
    *,
    kind: str,
    task: Task,
    number: int,
    contract: Mapping[str, float],
    data_sha256: str,
    outputs_may_train: bool | None,
    details: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    """What `seal` writes, with the digest of each file.

    Args:
        data_sha256: of the calls that trained, chose and calibrated it, by id and answer.
        details: what training says of itself; its `base`, `parents` and `licences` are taken over.
        evidence: nothing in it may depend on a clock.
    """
    facts = {
        "kind": kind,
        "task": task.name,
        "task_id": task.id,
        "description": task.description,
        "output_kind": str(task.output_kind),
        "number": number,
        "base": details.get("base", "trained from nothing"),
        "parents": details.get("parents", []),
        "licences": details.get(
            "licences", {"weights": "the owner's: trained from nothing on the owner's traces"}
        ),
        "data": {"sha256": data_sha256, "calls": evidence.get("calls", {})},
        "outputs_may_train": outputs_may_train,
        "contract": dict(contract),
        "metrics": {name: figure for name, figure in all_figures(evidence)},
        "evidence": evidence,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def all_figures(evidence: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, figure) of the gate, the output kind and the judge model; those that nothing was counted for are left out."""
    places = list(FIGURES)
    for place in ("gate", "measures", "judge"):
        figures = (evidence.get(place) or {}).get("figures", {})
        for name in sorted(figures, key=lambda n: (places.index(n) if n in places else len(places), n)):
            if isinstance(figures[name], Mapping) and figures[name].get("count"):
                yield name, figures[name]


def card_text(facts: Mapping[str, Any]) -> str:
    """The card for people."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    evidence, contract = facts["evidence"], facts["contract"]
    calls = facts["data"]["calls"]
    yield f"# {facts['task']}@{facts['number']}"
    yield ""
    yield from _wrapped(
        f"A specialist for one task: {(facts.get('description') or facts['task']).rstrip('. ')}. It is {_kind(facts['kind'])}; it answers with "
        f"{_output(facts.get('output_kind', ''))}."
    )
    yield ""
    yield "## Contract"
    yield ""
    if contract["threshold"] <= 1:
        said = (
            f"At most {contract['alpha']:.1%} of the answers that it gives are wrong by its task's loss, with confidence "
            f"{1 - contract['delta']:.0%}, on calls like those it was calibrated on. It answers from confidence "
            f"{contract['threshold']:.4f}; every other call goes to the large model."
        )
    else:
        said = (
            f"None: it did not pass its gate at {contract['alpha']:.1%} wrong answers with confidence {1 - contract['delta']:.0%}. "
            "It is kept as evidence and never answers."
        )
    yield from _wrapped(said)
    gate = evidence.get("gate") or {}
    if gate.get("outcome"):
        yield ""
        yield from _wrapped(f"Gate: {gate['outcome']}. {' '.join(gate.get('reasons', ()))}")
    if by_alpha := evidence.get("coverage_by_alpha"):
        yield ""
        yield from _wrapped(f"Could answer, by the share that may be wrong (α): {_by_alpha(by_alpha)}.")
    yield ""
    yield "## Evidence"
    yield ""
    yield from _wrapped("On held-out calls that it was not trained on, with 95% intervals.")
    yield ""
    yield from _figure_lines(evidence)
    yield from _against_lines(gate)
    yield ""
    if costs := evidence.get("costs"):
        yield "## Cost"
        yield ""
        yield from _cost_lines(costs)
        yield ""
    yield "## Data and licences"
    yield ""
    data = ", ".join(f"{n:,} to {use}" for use, n in _uses(calls)) or "not recorded"
    yield from _item("calls", data)
    yield from _item("data hash", facts["data"]["sha256"])
    yield from _item("base", str(facts["base"]))
    yield from _item("parents", ", ".join(map(_plain, facts["parents"])) or "none")
    licences = facts["licences"]
    named = licences.items() if isinstance(licences, Mapping) else [("weights", licences)]
    yield from _item("licences", "; ".join(f"{what}: {_plain(licence)}" for what, licence in named))
    may = facts.get("outputs_may_train")
    terms: dict[Any, str] = {True: "yes, says its owner", False: "no, says its owner (imported calls only)"}
    yield from _item(
        "generalist's answers may be trained on", terms.get(may, "not said (imported calls only)")
    )
    yield from _item("seed", str(evidence.get("seed", "not recorded")))
    yield ""
    yield "## Limits"
    yield ""
    yield from _wrapped(
        "Right means: as the large model answered, by the task's loss. Where the large model was wrong, this one learnt to be. "
        "The contract holds for traffic like that of its log; when traffic changes, learn again. Its training calls were scrubbed "
        "of recognised personal data; what no recogniser knows may still be in its vocabulary."
    )


def _by_alpha(rows: Iterable[Sequence[float]]) -> str:
    return ", ".join(
        f"{alpha:.3g}% {share:.0%}" if share else f"{alpha:.3g}% infeasible"
        for alpha, share in ((100 * row[0], row[1]) for row in rows)
    )


def _figure_lines(evidence: Mapping[str, Any]) -> Iterator[str]:
    for name, figure in all_figures(evidence):
        label = FIGURES.get(name, name.replace("_", " "))
        is_share = name not in ("likeness", "floor", "above_floor", "bleu", "chrf", "macro_f1")
        shown = [_number(figure.get(key), is_share) for key in ("value", "low", "high")]
        count = f"{figure['count']:,}"
        yield f"  {textwrap.shorten(label, 45, placeholder='…'):<45}{shown[0]:>7}  {shown[1]:>6} – {shown[2]:<6} {count:>6}"


def _against_lines(gate: Mapping[str, Any]) -> Iterator[str]:
    rivals = {
        "floor": "the most similar logged call, looked up",
        "generalist_again": "the generalist's own second answer",
    }
    for name, pair in (gate.get("against") or {}).items():
        yield ""
        yield from _wrapped(
            f"Against {rivals.get(name, name)}, on the same {pair['count']:,} calls: {pair['wins']:,} that only the specialist gets "
            f"right, {pair['losses']:,} that only the other does; difference {pair['value']:+.1%} ({pair['low']:+.1%} to {pair['high']:+.1%}; McNemar "
            f"p = {pair['p']:.2g})."
        )


def _cost_lines(costs: Mapping[str, Any]) -> Iterator[str]:
    if costs.get("core_seconds") is not None:
        hour = f" at {costs['core_hour_usd']:g} USD a core hour" if "core_hour_usd" in costs else ""
        yield from _item("learning", f"{costs['core_seconds']:,.0f} core seconds{hour}")
    if costs.get("answer_ms") is not None:
        yield from _item("an answer", f"{costs['answer_ms']:.3g} ms, alone, on the machine that learnt it")
    even = costs.get("break_even")
    if even is None:
        yield from _item(
            "break-even", "not known: the generalist has no price (generalist.price_in, price_out)"
        )
    elif even["calls"] is None:
        yield from _item("break-even", "never: it saves nothing")
    else:
        days = "" if even["days"] is None else f", {_days(even['days'])} at this task's volume"
        unit = "call" if even["calls"] == 1 else "calls"
        yield from _item(
            "break-even",
            f"{even['calls']:,} {unit}{days}; saves {even['saved_per_call_usd'] * 1000:.3g} USD in 1,000 calls",
        )


def _days(days: float) -> str:
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"


def _uses(calls: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    for use, name in (("train", "train"), ("choose", "choose and gate"), ("calibration", "calibrate")):
        if isinstance(calls.get(use), int):
            yield name, calls[use]


def _number(value: Any, is_share: bool) -> str:
    if not isinstance(value, int | float) or abs(value) == float("inf"):
        return "?"
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def _item(name: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(f"- {name}: {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False)


def _kind(kind: str) -> str:
    return KINDS.get(kind, kind.replace("_", " "))


def _output(kind: str) -> str:
    return {"label": "a label", "json": "JSON", "tool_call": "a function call", "text": "a text"}.get(
        kind, kind
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def version_facts(task: Task, version: Version, sealed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The facts of a registered version: its sealed card where there is one, under what the registry says today."""
    facts = card_facts(
        kind=version.kind,
        task=task,
        number=version.number,
        contract={"alpha": version.alpha, "delta": version.delta, "threshold": version.threshold},
        data_sha256="not recorded",
        outputs_may_train=None,
        details={} if sealed is not None else {"licences": {"weights": "not recorded"}},
        evidence=version.evidence,
    )
    kept = {k: v for k, v in (sealed or {}).items() if k in _SEALED}
    return {**facts, **kept}
