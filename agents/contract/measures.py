"""What is measured of a specialist's answers beyond right or wrong, by kind of output: labels, JSON, function calls, texts.

Every figure has a 95% interval. Pure; knows neither models nor how an answer came about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.agents.contract.figures import RESAMPLES, Figure, ratio, resampled, share, share_of
from shoal.agents.contract.loss import canonical_json, normal_label, unfenced

#: a function's name with its arguments as canonical JSON; see `canonical_tool_calls`
CalledFunction: TypeAlias = tuple[str, str]
#: an answer of a closed set is named in the confusions only if it is given this often
_MIN_NAMED = 3
_MOST_CONFUSIONS = 12
_MOST_FIELDS = 16
_OTHER = "(another)"
_NO_ANSWER = "(none)"
NO_CALL = "no call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Figures by name, and tables: `confusions` (expected, given, count), `fields` and `functions` (name to figures)."""

    figures: Mapping[str, Figure] = field(default_factory=dict)
    confusions: Sequence[tuple[str, str, int]] = ()
    fields: Mapping[str, Figure] = field(default_factory=dict)
    functions: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the registry's evidence; empty tables are left out."""
        out: dict[str, Any] = {"figures": {k: f.to_dict() for k, f in self.figures.items()}}
        if self.confusions:
            out["confusions"] = [list(c) for c in self.confusions]
        if self.fields:
            out["fields"] = {k: f.to_dict() for k, f in self.fields.items()}
        if self.functions:
            out["functions"] = {
                name: {k: f.to_dict() for k, f in own.items()} for name, own in self.functions.items()
            }
        return out


def label_measures(
    expected: Sequence[str], given: Sequence[str | None], *, known: Collection[str] = ()
) -> Measures:
    """Accuracy, macro-F1 over the labels expected, and which labels are taken for which. None stands for no answer.

    Args:
        known: labels that may be named in any case, because training saw enough of them.
    """
    want = [normal_label(e) for e in expected]
    got = [_NO_ANSWER if g is None else normal_label(g) for g in given]
    right = share_of([w == g for w, g in zip(want, got, strict=True)])
    return Measures(
        figures={"accuracy": right, "macro_f1": macro_f1(want, got)},
        confusions=confusions(want, got, known={normal_label(label) for label in known}),
    )


def macro_f1(expected: Sequence[str], given: Sequence[str]) -> Figure:
    """F1 by label, averaged over the labels that are expected in these calls, each counting alike."""
    places = {label: i for i, label in enumerate(dict.fromkeys([*expected, *given]))}
    want = np.array([places[e] for e in expected], dtype=np.int64)
    got = np.array([places[g] for g in given], dtype=np.int64)

    def score(at: NDArray[np.int64]) -> float:
        wanted, said = want[at], got[at]
        asked = np.bincount(wanted, minlength=len(places))
        hits = np.bincount(wanted[wanted == said], minlength=len(places))
        answered = np.bincount(said, minlength=len(places))
        there = asked > 0
        return float((2 * hits[there] / (asked[there] + answered[there])).mean())

    return resampled(len(expected), score)


def confusions(
    expected: Sequence[str], given: Sequence[str], *, known: Collection[str] = ()
) -> list[tuple[str, str, int]]:
    """The commonest mistakes: (expected, given, how often). Rare answers are named `(another)`, so none of a single call shows."""
    counts = Counter(expected)

    def named(label: str) -> str:
        return label if label == _NO_ANSWER or label in known or counts[label] >= _MIN_NAMED else _OTHER

    pairs = Counter((named(e), named(g)) for e, g in zip(expected, given, strict=True) if e != g)
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(e, g, n) for (e, g), n in ordered[:_MOST_CONFUSIONS]]


def json_measures(expected: Sequence[str], given: Sequence[str | None]) -> Measures:
    """Whether answers are JSON, whether all of it is as expected, and field by field (list places count as one field)."""
    valid, exact, right, wanted, extra, said = [], [], [], [], [], []
    by_field: dict[str, list[bool]] = {}
    for want_text, got_text in zip(expected, given, strict=True):
        want, got = _leaves(want_text), None if got_text is None else _leaves(got_text)
        valid.append(got is not None)
        got = got or {}
        exact.append(bool(want is not None and got == want))
        want = want or {}
        hits = {path: got.get(path, _MISSING) == value for path, value in want.items()}
        right.append(sum(hits.values()))
        wanted.append(len(want))
        extra.append(len(got.keys() - want.keys()))
        said.append(len(got))
        for path, hit in hits.items():
            by_field.setdefault(_general(path), []).append(hit)
    common = sorted(by_field.items(), key=lambda item: (-len(item[1]), item[0]))[:_MOST_FIELDS]
    return Measures(
        figures={
            "json_valid": share_of(valid),
            "json_exact": share_of(exact),
            "fields_right": ratio(right, wanted),
            "fields_added": ratio(extra, said),
        },
        fields={path: share_of(hits) for path, hits in common},
    )


def call_measures(
    expected: Sequence[Sequence[CalledFunction]], given: Sequence[Sequence[CalledFunction]]
) -> Measures:
    """Function calls: whether to call at all, the right function, the right arguments, and *no call*.

    An empty sequence stands for an answer without a call. Functions of one answer are compared in order.
    """
    pairs = list(zip(expected, given, strict=True))
    both = [(e, g) for e, g in pairs if e and g]
    same = [(e, g) for e, g in both if _names(e) == _names(g)]
    arguments = [_argument_hits(e, g) for e, g in same]
    functions: dict[str, dict[str, Figure]] = {}
    for name in sorted({_label(e) for e, _ in pairs}):
        own = [(e, g) for e, g in pairs if _label(e) == name]
        functions[name] = {
            "function": share_of([_names(e) == _names(g) for e, g in own]),
            "exact": share_of([list(e) == list(g) for e, g in own]),
        }
    said = sorted({_label(g) for _, g in pairs} - functions.keys())
    functions.update({name: {"function": share(0, 0), "exact": share(0, 0)} for name in said})
    return Measures(
        figures={
            "call_or_not": share_of([bool(e) == bool(g) for e, g in pairs]),
            "no_call": share_of([not g for e, g in pairs if not e]),
            "function": share_of([_names(e) == _names(g) for e, g in both]),
            "arguments": share_of([list(e) == list(g) for e, g in same]),
            "argument_values": ratio([hits for hits, _ in arguments], [count for _, count in arguments]),
            "call_exact": share_of([list(e) == list(g) for e, g in pairs if e]),
        },
        confusions=confusions([_label(e) for e, _ in pairs], [_label(g) for _, g in pairs], known=functions),
        functions=functions,
    )


def text_measures(
    expected: Sequence[str], given: Sequence[str | None], errors: Sequence[Sequence[str]] | None
) -> Measures:
    """Texts: corpus BLEU and chrF against the generalist's (where sacrebleu is installed), and slot errors.

    Args:
        errors: for each text what it drops or invents (`SlotChecker`); None where there is no rule.
    """
    figures: dict[str, Figure] = {}
    said = [(e, g) for e, g in zip(expected, given, strict=True) if g is not None]
    figures.update(_likeness([e for e, _ in said], [g for _, g in said]))
    if errors is not None:
        there = [e for e, g in zip(errors, given, strict=True) if g is not None]
        figures["slot_error"] = share_of([bool(e) for e in there])
        figures["slots_missing"] = share_of([any(w.startswith("missing") for w in e) for e in there])
        figures["slots_invented"] = share_of([any(not w.startswith("missing") for w in e) for e in there])
    return Measures(figures=figures)


def _likeness(expected: Sequence[str], given: Sequence[str]) -> dict[str, Figure]:
    """BLEU and chrF in [0, 1], each with a seeded bootstrap interval; nothing without sacrebleu."""
    try:
        from sacrebleu import BLEU, CHRF
    except ImportError:
        return {}
    if not expected:
        return {}
    out = {}
    for name, metric in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
        # its own seeded bootstrap; the interval stands around the resamples' mean
        score = metric.corpus_score(list(given), [list(expected)], n_bootstrap=RESAMPLES)
        middle, half = float(score._mean) / 100, float(score._ci) / 100
        out[name] = Figure(
            value=float(score.score) / 100,
            low=max(0.0, middle - half),
            high=min(1.0, middle + half),
            count=len(expected),
        )
    return out


class _Missing:
    """Equal to nothing that JSON holds."""


_MISSING = _Missing()


def _leaves(text: str) -> dict[str, Any] | None:
    """Path to value of a JSON object or list; None where it is neither."""
    canonical = canonical_json(unfenced(text))
    if canonical is None or canonical[:1] not in "{[":
        return None
    out: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{path}.{key}" if path else key, inner)
        elif isinstance(value, list) and value:
            for i, inner in enumerate(value):
                walk(f"{path}[{i}]", inner)
        else:
            # 1 and true are equal in Python and not in JSON
            out[path] = (type(value).__name__, value)

    walk("", json.loads(canonical))
    return out


def _general(path: str) -> str:
    """The path with list places left out."""
    return "".join(f"[]{rest}" if i else rest for i, rest in enumerate(_without_places(path)))


def _without_places(path: str) -> list[str]:
    head, *tail = path.split("[")
    return [head, *(part.partition("]")[2] for part in tail)]


def _names(calls: Sequence[CalledFunction]) -> list[str]:
    return [name for name, _ in calls]


def _label(calls: Sequence[CalledFunction]) -> str:
    return " + ".join(_names(calls)) or NO_CALL


def _argument_hits(expected: Sequence[CalledFunction], given: Sequence[CalledFunction]) -> tuple[int, int]:
    hits = count = 0
    for (_, want_text), (_, got_text) in zip(expected, given, strict=True):
        want, got = _leaves(want_text) or {}, _leaves(got_text) or {}
        hits += sum(got.get(path, _MISSING) == value for path, value in want.items())
        # an argument that should not be there is one more that is wrong
        count += len(want.keys() | got.keys())
    return hits, count
