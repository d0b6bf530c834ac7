"""Figures from the demo's runs: who performed each step, where, how well, how fast, at what price.

Pure: runs in, figures out. Sentences are checked against their records, and structured answers against the generalist's own; nothing is
shared with the stand-in (not its rules, not its templates) nor with the specialists.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shoal.examples.sales_report.agent import STEPS

#: what the demo promises of its second round
LEAST_SHARE: Final = {"plan": 0.5, "analyse": 0.8, "write": 0.8}
LEAST_AGREEMENT: Final = 0.97
LEAST_VALID: Final = 0.98
MOST_SECONDS: Final = 480.0
WRITER_TIER: Final = "edge"

_UP = re.compile(
    r"\b(?:increas\w*|ris(?:e|es|en|ing)|rose|gr[eo]w\w*|climb\w*|gain\w*|up|expand\w*|good news|higher|surg\w*"
    r"|stieg\w*|steig\w*|wuchs|wachs\w*|umsatzwachstum|erhöh\w*|plus|zugelegt|rauf|läuft|stark)\b"
)
_DOWN = re.compile(
    r"\b(?:decreas\w*|declin\w*|f[ae]ll\w*|drop\w*|shr[aiu]nk\w*|slip\w*|los(?:e|es|s|ses|t|ing)|down|ouch|lower\w*"
    r"|sank\w*|sink\w*|umsatzrückgang|verring\w*|minus|verloren|runter|autsch|schade)\b"
)
_GERMAN = re.compile(r"\b(?:der|die|das|und|um|für|bei|hat|liegt|ist|wegen|dank|mit|sei|umsatz|von)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of one step of a run.

    Attributes:
        step: `plan`, `query`, `analyse` or `write`.
        given: what it was given: the question, a tool's arguments, or a record.
        said: what came of it; None where it was not done.
        performer: `specialist/<task>@<version>`, `generalist/<model>` or `tool/<name>`.
        corrected: a specialist's answer broke its schema, so the generalist was asked.
    """

    step: str
    given: Any
    said: Any
    performer: str
    node: str = ""
    tier: str = ""
    ms: float | None = None
    cost_usd: float | None = None
    corrected: bool = False

    @property
    def by_specialist(self) -> bool:
        return self.performer.startswith("specialist/")

    @property
    def key(self) -> str:
        """The same for parts that were given the same."""
        return f"{self.step} {json.dumps(self.given, sort_keys=True, ensure_ascii=False)}"


def parts_of(run: Mapping[str, Any]) -> Iterator[Part]:
    """The parts of a run, as `GET /v1/runs/{id}` gives it, in the order of its steps."""
    names = {use: name for name, use in STEPS.items()}
    steps = {step["id"]: step for step in run["steps"]}
    planned = next((step["planned"] for step in run["steps"] if step["use"] == STEPS["plan"]), None)
    by_use = {names[step["use"]]: step for step in steps.values() if step["use"] in names}
    records = ((by_use.get("query") or {}).get("output") or {}).get("records") or []
    insights = (by_use.get("analyse") or {}).get("output") or []
    for name, step in by_use.items():
        for part in step["parts"]:
            at = part["part"]
            given, said = _given_and_said(name, run, step, planned, records, insights, at)
            yield Part(
                step=name,
                given=given,
                said=said,
                performer=part["performer"],
                node=part["node"],
                tier=part["tier"],
                ms=part["ms"],
                cost_usd=part["cost_usd"],
                corrected=part["asked_generalist"],
            )


def _given_and_said(
    name: str,
    run: Mapping[str, Any],
    step: Mapping[str, Any],
    planned: Any,
    records: Sequence[Mapping[str, Any]],
    insights: Sequence[Mapping[str, Any]],
    at: int,
) -> tuple[Any, Any]:
    output = step["output"]
    if name == "plan":
        return run["input"].get("question"), planned
    steps: list[dict[str, Any]] = (planned or {}).get("steps", [])
    body: dict[str, Any] = next((s for s in steps if s["use"] == step["use"]), {})
    if name == "query":
        return body.get("input"), output
    said = output[at] if isinstance(output, list) and at < len(output) else None
    record = records[at] if at < len(records) else {}
    if name == "analyse":
        return record, said
    asked: Any = body.get("input")
    style = {key: asked.get(key) for key in ("tone", "language")} if isinstance(asked, dict) else {}
    driver = insights[at].get("driver") if at < len(insights) else None
    return {"name": record.get("name"), "growth": record.get("growth"), "driver": driver, **style}, said


# -- whether a sentence is true to its record


def values_carried(record: Mapping[str, Any], sentence: str) -> dict[str, bool]:
    """For `name`, `growth` and `driver`: does the sentence have the record's value? Growth counts without its sign."""
    text = _plain(sentence)
    number = f"{abs(record['growth']):g}".replace(".", "[.,]")
    number += "0*" if "." in number else r"(?:[.,]0+)?"
    return {
        "name": _plain(str(record["name"])) in text,
        "growth": re.search(rf"(?<![\d.,]){number}(?![\d]|[.,]\d)", text) is not None,
        "driver": _plain(str(record["driver"])) in text,
    }


def direction_kept(record: Mapping[str, Any], sentence: str) -> bool:
    """Whether the sentence's words of rise and fall, outside the record's own values, say what the growth's sign says."""
    text = _plain(sentence)
    for name in ("driver", "name"):
        text = text.replace(_plain(str(record[name])), " ")
    up, down = _UP.search(text) is not None, _DOWN.search(text) is not None
    if up == down:
        return bool(record["growth"] == 0)
    return bool(up == (record["growth"] > 0))


def language_kept(record: Mapping[str, Any], sentence: str) -> bool:
    """Whether the sentence is in the record's language, told by the small words outside its values."""
    text = _plain(sentence)
    for name in ("driver", "name"):
        text = text.replace(_plain(str(record[name])), " ")
    return (_GERMAN.search(text) is not None) == (record.get("language") == "German")


def is_true(part: Part) -> bool:
    """Whether a sentence has its record's values, direction and language."""
    if not isinstance(part.said, str) or not part.given or part.given.get("growth") is None:
        return False
    record = part.given
    carried = all(values_carried(record, part.said).values())
    return carried and direction_kept(record, part.said) and language_kept(record, part.said)


def agrees(part: Part, references: Mapping[str, Any]) -> bool:
    """Whether a structured answer is what the generalist itself says to the same."""
    return part.key in references and bool(references[part.key] == part.said)


# -- figures


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def share(parts: Sequence[Part], test: Callable[[Part], bool]) -> float | None:
    """Share of the parts that pass; None of none."""
    return sum(map(test, parts)) / len(parts) if parts else None


def step_figures(name: str, parts: Sequence[Part]) -> dict[str, Any]:
    """One step over a round: who, where, how fast, at what price. Latencies in ms, cost in USD per 1,000 calls."""
    mine = [part for part in parts if part.step == name]
    own = [part for part in mine if part.by_specialist]
    took = [part.ms for part in mine if part.ms is not None]
    costs = [part.cost_usd for part in mine if part.cost_usd is not None]
    return {
        "calls": len(mine),
        "specialist_calls": len(own),
        "specialist_share": share(mine, lambda part: part.by_specialist) if name != "query" else None,
        "nodes": dict(Counter(part.node for part in mine if part.node).most_common()),
        "tiers": dict(Counter(part.tier for part in mine if part.tier).most_common()),
        "specialist_tiers": dict(Counter(part.tier for part in own).most_common()),
        "latency_p50_ms": _rounded(percentile(took, 0.5)),
        "latency_p95_ms": _rounded(percentile(took, 0.95)),
        "cost_usd_per_1000": _rounded(1000 * sum(costs) / len(costs), 4)
        if costs and name != "query"
        else None,
    }


def round_figures(name: str, runs: Sequence[Mapping[str, Any]], concurrency: int) -> dict[str, Any]:
    """One round of questions. `answer_p50_ms`: from a run's start to its end; cost in USD per 1,000 questions."""
    parts = [part for run in runs for part in parts_of(run)]
    took = [1000 * (run["ended_at"] - run["created_at"]) for run in runs if run["status"] == "done"]
    costs = [run["cost_usd"] for run in runs if run["cost_usd"] is not None]
    return {
        "name": name,
        "questions": len(runs),
        "failed": sum(run["status"] != "done" for run in runs),
        "calls": sum(part.step != "query" for part in parts),
        "concurrency": concurrency,
        "answer_p50_ms": _rounded(percentile(took, 0.5)),
        "answer_p95_ms": _rounded(percentile(took, 0.95)),
        "cost_usd_per_1000": _rounded(1000 * sum(costs) / len(costs), 4) if costs else None,
        "steps": {step: step_figures(step, parts) for step in STEPS},
    }


def quality_figures(parts: Sequence[Part], references: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Second-round quality by step: of what specialists answered."""
    plans = [part for part in parts if part.step == "plan"]
    asked = [part for part in plans if part.by_specialist or part.corrected]
    figures: dict[str, dict[str, Any]] = {}
    for name in ("plan", "analyse", "write"):
        mine = [part for part in parts if part.step == name]
        own = [part for part in mine if part.by_specialist]
        figure: dict[str, Any] = {
            "calls": len(mine),
            "specialist_calls": len(own),
            "specialist_share": share(mine, lambda part: part.by_specialist),
        }
        if name == "write":
            figure["true"] = share(own, is_true)
            figure["true_all"] = share(mine, is_true)
            wrong = [part for part in mine if not is_true(part)]
        else:
            figure["agreement"] = share(own, lambda part: agrees(part, references))
            wrong = [part for part in own if not agrees(part, references)]
        figure["disagreements"] = [
            {"given": part.given, "said": part.said, "generalist": references.get(part.key)}
            for part in wrong[:3]
        ]
        figures[name] = figure
    figures["plan"]["valid"] = share(asked, lambda part: not part.corrected)
    return figures


def structured_agreement(parts: Sequence[Part], references: Mapping[str, Any]) -> float | None:
    """Of the plans and analyses that specialists gave, the share that the generalist gives too."""
    own = [part for part in parts if part.step in ("plan", "analyse") and part.by_specialist]
    return share(own, lambda part: agrees(part, references))


def broken_promises(result: Mapping[str, Any]) -> list[str]:
    """What the demo promised and did not keep, in words; empty when all is well."""
    broken = []
    failed = sum(found["failed"] for found in result["rounds"])
    if failed:
        broken.append(f"{failed} questions were not answered")
    quality = result["quality"]
    for name, least in LEAST_SHARE.items():
        value = quality[name]["specialist_share"] or 0.0
        if value < least:
            broken.append(f"{name}: its specialist answered {value:.0%} of the calls, promised {least:.0%}")
    valid = quality["plan"]["valid"]
    if valid is not None and valid < LEAST_VALID:
        broken.append(f"plan: {valid:.1%} of the specialist's plans were valid, promised {LEAST_VALID:.0%}")
    agreement = result["demo_structured_agreement"]
    if agreement is not None and agreement < LEAST_AGREEMENT:
        broken.append(f"{agreement:.1%} agreement with the generalist, promised {LEAST_AGREEMENT:.0%}")
    true = quality["write"]["true_all"]
    if true is not None and true < 1:
        broken.append(f"write: {true:.1%} of the sentences are true to their records, promised all")
    tiers = result["rounds"][1]["steps"]["write"]["specialist_tiers"]
    if quality["write"]["specialist_calls"] and set(tiers) != {WRITER_TIER}:
        broken.append(
            f"write: its specialist ran on {', '.join(tiers) or 'no'} nodes, promised {WRITER_TIER} nodes"
        )
    if result["demo_seconds"] > MOST_SECONDS:
        broken.append(f"it took {result['demo_seconds']:.0f} s, promised {MOST_SECONDS:.0f} s")
    return broken


def summary(
    *,
    generalist: dict[str, Any],
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    references: Mapping[str, Any],
    concurrency: tuple[int, int],
    specialists: Sequence[dict[str, Any]],
    placement: Mapping[str, Any] | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """All that the demo found, ready for JSON.

    Args:
        first, second: the runs of both rounds.
        references: key of a part -> what the generalist says to the same when asked itself.
        placement: what the placement actor last said.
    """
    parts = [part for run in second for part in parts_of(run)]
    quality = quality_figures(parts, references)
    shares = [quality[name]["specialist_share"] for name in LEAST_SHARE]
    result: dict[str, Any] = {
        "generalist": generalist,
        "rounds": [
            round_figures("log", first, concurrency[0]),
            round_figures("unseen", second, concurrency[1]),
        ],
        "quality": quality,
        "specialists": list(specialists),
        "placement": placement,
        "example": _example(second),
        "seconds": seconds,
        "errors": sorted({run["error"]["message"] for run in (*first, *second) if run["error"]})[:5],
        "demo_seconds": round(seconds["total"], 1),
        "demo_specialist_share": min(shares) if all(value is not None for value in shares) else None,
        "demo_structured_agreement": structured_agreement(parts, references),
    }
    return {**result, "broken_promises": broken_promises(result)}


def _example(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A run whose plan a specialist wrote, in German if there is one."""
    done = [run for run in runs if run["status"] == "done"]

    def rank(run: Mapping[str, Any]) -> tuple[bool, bool]:
        plan = next(part for part in parts_of(run) if part.step == "plan")
        return (not plan.by_specialist, "German" not in str(run["input"]))

    return dict(sorted(done, key=rank)[0]) if done else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
