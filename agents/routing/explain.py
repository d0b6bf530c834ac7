"""What would happen to a request, and why, as plain data for people. Pure; asks nobody."""

from __future__ import annotations

from typing import Any

from shoal.agents.routing.capability import unmet
from shoal.agents.routing.router import Router
from shoal.agents.routing.snapshot import Performer, Snapshot
from shoal.agents.tasks.features import PromptMemo, features_of, language
from shoal.agents.traces.chat import ChatRequest

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
    prompt = " ".join(features.prompt.masked.split())
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
        "prompt": prompt if len(prompt) <= _SHOWN else prompt[: _SHOWN - 1] + "…",
        "tools": list(features.tools),
        "format": features.format or "text",
        "input": {
            "structure": str(features.structure),
            "keys": list(features.keys),
            "language": language(features) or "undecided",
        },
        "epoch": snapshot.epoch,
    }


def _performer(task: str, performer: Performer | None) -> dict[str, Any] | None:
    if performer is None:
        return None
    return {
        "specialist": f"{task}@{performer.number}",
        "state": str(performer.state),
        "answers_from_confidence": performer.threshold,
        "share": performer.share,
    }
