"""Makes a task's match data from its calls; `matcher.py` documents the fields. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.about import ranked, tally
from shoal.agents.tasks.calls import Call
from shoal.agents.tasks.features import evidence_of, language
from shoal.agents.tasks.language import UNDECIDED
from shoal.agents.tasks.likeness import MEASURED, TextIndex, quantiles, wording
from shoal.agents.tasks.matcher import MATCH_VERSION, Matcher
from shoal.agents.tasks.split import Part
from shoal.agents.tasks.template import Template

_MAX_FINGERPRINTS = 5000
_MAX_NAMES = 2000
#: calls whose words are counted, evenly spread over a task's
_WORDED = 4000
#: and calls of a log among which those are looked for whose likeness is measured
_MATCHED = 20_000
#: Good-Turing: where the next call's prompt (tool) is new with more than this chance, new ones are the rule
_OPEN_CHANCE = 0.005
#: a language counts as the task's from this share of its calls on
_LANGUAGE_SHARE = 0.002


def match_data(part: Part, template: Template) -> dict[str, Any]:
    """How the calls of one part are recognised, as plain data."""
    calls = part.calls
    first = calls[0].features
    fingerprints = Counter(call.features.fingerprint for call in calls)
    tools = Counter(name for call in calls for name in set(call.features.tools))
    open_prompts = _next_is_new(fingerprints, len(calls))
    # where prompts keep being new the template recognises them, and those seen once need not be kept
    kept = [name for name, count in ranked(fingerprints) if count > 1 or not open_prompts]
    return {
        "v": MATCH_VERSION,
        "tools": first.has_tools,
        "format": first.format,
        "fingerprints": kept[:_MAX_FINGERPRINTS],
        "prompts": len(fingerprints),
        "open_prompts": open_prompts,
        "templates": [template.to_dict()],
        "faces": _faces(part),
        "structures": sorted({str(call.features.structure) for call in calls}),
        "languages": _languages(calls),
        "weights": dict(part.weights),
        "bias": part.bias,
        "wording": wording(evidence_of(call.features) for call in calls[:: max(1, len(calls) // _WORDED)]),
        "turn": [[mark, wanted] for mark, wanted in part.turn],
        "tool_set": [name for name, _ in ranked(tools)[:_MAX_NAMES]],
        "open_tools": _next_is_new(tools, len(calls)),
        "asks": tally(calls).asks(),
    }


def _next_is_new(counts: Counter[str], calls: int) -> bool:
    """Good's estimate of the chance that the next call brings something not seen: what was seen once, by all calls."""
    once = sum(count == 1 for count in counts.values())
    return once > max(1.0, _OPEN_CHANCE * calls)


def _faces(part: Part) -> list[dict[str, Any]]:
    keys: dict[str, Counter[str]] = {}
    for call in part.calls:
        keys.setdefault(str(call.features.structure), Counter()).update(call.features.keys)
    return [
        {
            "instruction": None if face.instruction is None else face.instruction.to_dict(),
            "record": face.record,
            "keys": [key for key, _ in ranked(keys.get(face.record, Counter()))[:_MAX_NAMES]],
        }
        for face in part.faces
    ]


def _languages(calls: Sequence[Call]) -> list[str]:
    counts = Counter(language(call.features) for call in calls)
    least = _LANGUAGE_SHARE * len(calls)
    return sorted(name for name, count in counts.items() if name == UNDECIDED or count > least)


def with_likeness(tasks: Sequence[Task], calls: Sequence[Call]) -> list[Task]:
    """The tasks with how alike each one's own calls are to it, next to all other tasks; those without calls stay as they were.

    Args:
        calls: a log's calls, or a sample of them.
    """
    worded = [task for task in tasks if task.match.get("wording") and not task.match.get("retired")]
    index = TextIndex([task.match["wording"] for task in worded])
    matcher = Matcher([(task.id, task) for task in worded], corrected=False)
    own: dict[TaskId, list[Call]] = {task.id: [] for task in worded}
    for call in calls[:: max(1, len(calls) // _MATCHED)]:
        task_id = matcher.match_features(call.features).task_id
        if task_id is not None:
            own[task_id].append(call)
    measured: dict[TaskId, list[float]] = {}
    for place, task in enumerate(worded):
        if inside := own[task.id]:
            some = inside[:: max(1, len(inside) // MEASURED)]
            measured[task.id] = quantiles([index.cosines(evidence_of(c.features))[place] for c in some])
    return [
        replace(task, match={**task.match, "likeness": measured[task.id]}) if task.id in measured else task
        for task in tasks
    ]
