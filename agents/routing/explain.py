"""What would happen to a request, and why, as plain data for people. Pure; asks nobody."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from shoal.agents.routing.capability import unmet
from shoal.agents.routing.router import Router
from shoal.agents.routing.snapshot import Performer, Snapshot
from shoal.agents.tasks.features import PromptMemo, evidence_of, features_of, language
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace

_SHOWN = 160


def explain(
    request: ChatRequest, snapshot: Snapshot, *, generalist_model: str | None = None, any_model: bool = True
) -> dict[str, Any]:
    """The decision for a request with everything that it rests on.

    Keys: `task`, `task_id`, `how`, `task_confidence`, `nearest` (tasks worded like it), `novelty`, `performer` (None: the generalist is asked), `shadows`, `reasons`, `unmet`,
    `fingerprint`, `prompt` (masked), `tools`, `format`, `input` (structure, keys, language), `epoch`.

    Raises:
        NotFound, InvalidRequest: as `Router.decide`; by default every request is taken as `auto`.
    """
    router = Router(snapshot)
    decision = router.decide(request, generalist_model=generalist_model, any_model=any_model)
    features = features_of(request, PromptMemo())
    route = next((r for r in snapshot.routes if r.task_id == decision.task_id), None)
    return {
        "task": decision.task_name or None,
        "task_id": decision.task_id,
        "how": decision.how,
        "task_confidence": round(decision.confidence, 3),
        "nearest": [{"task": near.name, "likeness": near.likeness} for near in router.nearest(request)],
        "novelty": None if decision.novelty is None else str(decision.novelty),
        "performer": _performer(decision.task_name, decision.performer),
        "shadows": [_performer(decision.task_name, shadow) for shadow in decision.shadows],
        "reasons": list(decision.reasons),
        "unmet": None if route is None else unmet(request, route),
        "fingerprint": features.fingerprint,
        "prompt": _cut(features.prompt.masked),
        "tools": list(features.tools),
        "format": features.format or "text",
        "input": {
            "structure": str(features.structure),
            "keys": list(features.keys),
            "language": language(features) or "undecided",
        },
        "epoch": snapshot.epoch,
    }


def nearest_calls(request: ChatRequest, traces: Iterable[Trace], *, most: int) -> list[dict[str, Any]]:
    """The calls whose newest user message is most alike, best first: `id`, `likeness` in [0, 1] and `text`.

    The likeness is the share of words and pairs of words that both have (their cosine as sets). Holds `most` calls in memory.
    """
    memo = PromptMemo()
    wanted = evidence_of(features_of(request, memo, stage=False))
    best: list[tuple[float, str, str]] = []
    for trace in traces:
        features = features_of(trace.chat, memo, stage=False)
        words = evidence_of(features)
        alike = len(wanted & words) / (len(wanted) * len(words)) ** 0.5
        if len(best) < most or alike > best[0][0]:
            (heapq.heappush if len(best) < most else heapq.heappushpop)(
                best, (alike, trace.id, features.input)
            )
    return [
        {"id": name, "likeness": round(alike, 3), "text": _cut(text)}
        for alike, name, text in sorted(best, key=lambda found: (-found[0], found[1]))
    ]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _performer(task: str, performer: Performer | None) -> dict[str, Any] | None:
    if performer is None:
        return None
    return {
        "specialist": f"{task}@{performer.number}",
        "state": str(performer.state),
        "answers_from_confidence": performer.threshold,
        "share": performer.share,
    }
