"""Makes a task's match data from its calls; `matcher.py` documents the fields. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from shoal.agents.tasks.about import ranked, tally
from shoal.agents.tasks.calls import Call
from shoal.agents.tasks.features import language
from shoal.agents.tasks.language import UNDECIDED
from shoal.agents.tasks.matcher import MATCH_VERSION
from shoal.agents.tasks.split import Part
from shoal.agents.tasks.template import Template

_MAX_FINGERPRINTS = 5000
_MAX_NAMES = 2000
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
