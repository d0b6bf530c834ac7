"""Figures from the calls that the demo made: who answered, how well, how fast, at what price.

Pure: rows in, figures out. It checks sentences against their records and structured answers against the generalist's own, and
shares nothing with the stand-in (not its rules, not its templates) nor with the specialists.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.examples.sales_report.prompts import ANALYSE, CALL_SITES, WRITE
from shoal.examples.sales_report.records import Record

#: the demo's promises: least share that each call-site's specialist answers, least agreement of the structured one
LEAST_SHARE = 0.60
LEAST_AGREEMENT = 0.98

_UP = re.compile(
    r"\b(?:increas\w*|ris(?:e|es|en|ing)|rose|gr[eo]w\w*|climb\w*|gain\w*|up|expand\w*|advanc\w*|lift\w*|improv\w*"
    r"|jump\w*|higher|surg\w*)\b"
)
_DOWN = re.compile(
    r"\b(?:decreas\w*|declin\w*|f[ae]ll\w*|drop\w*|shr[aiu]nk\w*|slip\w*|los(?:e|es|s|ses|t|ing)|down|reduc\w*"
    r"|slump\w*|contract(?:ed|ion)|lower\w*|weak\w*)\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call of the demo.

    Attributes:
        answer: the text that the client got; None where the call failed (`error` says how).
        served_by: `specialist/<task>@<version>` or `generalist/<model>`.
        latency_ms: from sending to the whole answer, as the client saw it.
        reference: what the generalist says to the same call when asked directly; None where it was not asked.
        novel: the record has names that the log never had.
    """

    call_site: str
    record: Record
    answer: str | None
    served_by: str = ""
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reference: str | None = None
    novel: bool = False
    error: str = ""

    @property
    def by_specialist(self) -> bool:
        return self.served_by.startswith("specialist/")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens of the generalist, in and out."""

    per_million_in: float
    per_million_out: float

    def of(self, row: Row) -> float:
        """USD for one call. A specialist runs on the owner's machine: no price per token."""
        if row.by_specialist:
            return 0.0
        return (row.prompt_tokens * self.per_million_in + row.completion_tokens * self.per_million_out) / 1e6


def same_json(given: str | None, wanted: str | None) -> bool:
    """Whether two texts are the same JSON value; False where one is no JSON."""
    if given is None or wanted is None:
        return False
    try:
        return bool(json.loads(given) == json.loads(wanted))
    except ValueError:
        return False


def values_carried(record: Record, sentence: str | None) -> dict[str, bool]:
    """For `region`, `growth` and `driver`: does the sentence have the record's value? Growth counts without its sign."""
    text = _plain(sentence or "")
    number = f"{abs(record['growth']):g}"
    number = re.escape(number) + ("0*" if "." in number else r"(?:\.0+)?")
    return {
        "region": _plain(str(record["region"])) in text,
        "growth": re.search(rf"(?<![\d.,]){number}(?![\d]|[.,]\d)", text) is not None,
        "driver": _plain(str(record["driver"])) in text,
    }


def direction_kept(record: Record, sentence: str | None) -> bool:
    """Whether the sentence's words of rise and fall, outside the record's own values, say what the growth's sign says."""
    text = _plain(sentence or "")
    for name in ("driver", "region"):
        text = text.replace(_plain(str(record[name])), " ")
    up, down = _UP.search(text) is not None, _DOWN.search(text) is not None
    if up == down:
        return up or record["growth"] == 0
    return bool(up == (record["growth"] > 0))


def carries_all(row: Row) -> bool:
    """Whether a sentence has all three values of its record."""
    return all(values_carried(row.record, row.answer).values())


def agrees(row: Row) -> bool:
    """Whether an answer says what the generalist's does: the same JSON, or a sentence with all facts of its record."""
    if row.call_site == ANALYSE:
        return same_json(row.answer, row.reference)
    return carries_all(row) and direction_kept(row.record, row.answer)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def share(rows: Sequence[Row], test: Callable[[Row], bool]) -> float | None:
    """Share of the rows that pass; None of no rows."""
    return sum(map(test, rows)) / len(rows) if rows else None


def traffic(rows: Sequence[Row], price: Price | None) -> dict[str, Any]:
    """Who answered, how fast and at what price (None where none is known). Latencies in ms, cost in USD per 1,000 calls."""
    answered = [row for row in rows if row.answer is not None]
    latencies = [row.latency_ms for row in answered]
    by_specialist = [row.latency_ms for row in answered if row.by_specialist]
    return {
        "calls": len(rows),
        "failed": len(rows) - len(answered),
        "specialist_share": share(rows, lambda row: row.by_specialist),
        "latency_p50_ms": _rounded(percentile(latencies, 0.50)),
        "latency_p95_ms": _rounded(percentile(latencies, 0.95)),
        "specialist_latency_p50_ms": _rounded(percentile(by_specialist, 0.50)),
        "specialist_latency_p95_ms": _rounded(percentile(by_specialist, 0.95)),
        "cost_usd_per_1000": None
        if price is None or not rows
        else _rounded(1000 * sum(map(price.of, rows)) / len(rows), 4),
    }


def round_figures(name: str, rows: Sequence[Row], price: Price | None) -> dict[str, Any]:
    """One round: all its traffic, and that of each call-site."""
    return {
        "name": name,
        **traffic(rows, price),
        "call_sites": {
            site: traffic([row for row in rows if row.call_site == site], price) for site in CALL_SITES
        },
    }


def call_site_figures(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Second-round quality of each call-site.

    `agreement` and `values_carried` count what a specialist answered; with `_all`, every answered call.
    """
    figures: dict[str, dict[str, Any]] = {}
    for site in CALL_SITES:
        mine = [row for row in rows if row.call_site == site]
        own = [row for row in mine if row.by_specialist]
        figure: dict[str, Any] = {
            "calls": len(mine),
            "specialist_calls": len(own),
            "specialist_share": share(mine, lambda row: row.by_specialist),
            "specialist_share_novel": share([r for r in mine if r.novel], lambda row: row.by_specialist),
            "specialist_share_known": share([r for r in mine if not r.novel], lambda row: row.by_specialist),
            "agreement": share(own, agrees),
            "agreement_all": share(mine, agrees),
        }
        if site == WRITE:
            figure["values_carried"] = share(own, carries_all)
            figure["values_carried_novel"] = share([r for r in own if r.novel], carries_all)
            figure["values_carried_all"] = share(mine, carries_all)
            figure["direction_kept"] = share(own, lambda row: direction_kept(row.record, row.answer))
        figure["disagreements"] = [
            {"record": row.record, "answer": row.answer, "generalist": row.reference}
            for row in own
            if not agrees(row)
        ][:3]
        figures[site] = figure
    return figures


def flat_figures(call_sites: dict[str, dict[str, Any]], seconds: float) -> dict[str, float]:
    """The demo's headline figures; one that could not be measured is absent. The share is the lower of the call-sites'."""
    figures = {"demo_seconds": round(seconds, 1)}
    shares = [call_sites[site]["specialist_share"] for site in CALL_SITES]
    if all(value is not None for value in shares):
        figures["demo_specialist_share"] = min(shares)
    if (agreement := call_sites[ANALYSE]["agreement"]) is not None:
        figures["demo_structured_agreement"] = agreement
    return figures


def broken_promises(call_sites: dict[str, dict[str, Any]], failed_calls: int) -> list[str]:
    """What the demo promised and did not keep, in words; empty when all is well."""
    broken = []
    if failed_calls:
        broken.append(f"{failed_calls} calls got no answer")
    for site in CALL_SITES:
        value = call_sites[site]["specialist_share"]
        if value is None or value < LEAST_SHARE:
            broken.append(
                f"{site}: its specialist answered {value or 0:.0%} of the calls, promised {LEAST_SHARE:.0%}"
            )
    agreement = call_sites[ANALYSE]["agreement"]
    if agreement is not None and agreement < LEAST_AGREEMENT:
        broken.append(
            f"{ANALYSE}: {agreement:.1%} agreement with the generalist, promised {LEAST_AGREEMENT:.0%}"
        )
    carried = call_sites[WRITE]["values_carried_all"]
    if carried is not None and carried < 1:
        broken.append(f"{WRITE}: {carried:.1%} of the sentences carry every value, promised all")
    return broken


def summary(
    *,
    generalist: dict[str, Any],
    first: Sequence[Row],
    second: Sequence[Row],
    direct: Sequence[Row],
    concurrency: tuple[int, int, int],
    price: Price | None,
    specialists: Sequence[dict[str, Any]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """All that the demo found, ready for JSON.

    Args:
        first: the calls of the log, answered by the generalist through the site.
        second: the unseen calls through the site, each with the generalist's own answer as `reference`.
        direct: the unseen calls asked of the generalist itself, past the site.
        concurrency: how many calls were under way at once in each of the three.
    """
    call_sites = call_site_figures(second)
    failed = sum(row.answer is None for row in (*first, *second, *direct))
    errors = sorted({row.error for row in (*first, *second, *direct) if row.error})
    rounds = (("log", first), ("unseen", second), ("unseen, asked of the generalist", direct))
    stated = None
    if price is not None:
        stated = {"in": price.per_million_in, "out": price.per_million_out}
    return {
        "generalist": {**generalist, "stated_price_usd_per_million_tokens": stated},
        "rounds": [
            {**round_figures(name, rows, price), "concurrency": at_once}
            for (name, rows), at_once in zip(rounds, concurrency, strict=True)
        ],
        "call_sites": call_sites,
        "specialists": list(specialists),
        "examples": _examples(second),
        "seconds": seconds,
        "errors": errors[:5],
        "broken_promises": broken_promises(call_sites, failed),
        **flat_figures(call_sites, seconds["total"]),
    }


def _examples(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each call-site one answer that a specialist gave, with novel names where there is one."""
    examples = []
    for site in CALL_SITES:
        own = [row for row in rows if row.call_site == site and row.by_specialist]
        for row in sorted(own, key=lambda row: not row.novel)[:1]:
            examples.append(
                {
                    "call_site": site,
                    "record": row.record,
                    "answer": row.answer,
                    "served_by": row.served_by,
                }
            )
    return examples


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
