"""Makes a task's match data from its calls; `matcher.py` documents the fields. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from shoal.agents.registry.records import OutputKind
from shoal.agents.tasks.calls import Call, outputs_of
from shoal.agents.tasks.features import language
from shoal.agents.tasks.language import UNDECIDED
from shoal.agents.tasks.matcher import MATCH_VERSION
from shoal.agents.tasks.split import Part
from shoal.agents.tasks.template import Template

_MAX_FINGERPRINTS = 5000
_MAX_NAMES = 2000
_MAX_VALUES = 20
#: Good-Turing: where the next call's prompt (tool) is new with more than this chance, new ones are the rule
_OPEN_CHANCE = 0.005
#: a language counts as the task's from this share of its calls on
_LANGUAGE_SHARE = 0.002
_KIND_SHARE = 0.8
_TOOL_SHARE = 0.05


def match_data(part: Part, template: Template) -> dict[str, Any]:
    """How the calls of one part are recognised, as plain data."""
    calls = part.calls
    first = calls[0].features
    fingerprints = Counter(call.features.fingerprint for call in calls)
    tools = Counter(name for call in calls for name in set(call.features.tools))
    open_prompts = _next_is_new(fingerprints, len(calls))
    # where prompts keep being new the template recognises them, and those seen once need not be kept
    kept = [name for name, count in _ranked(fingerprints) if count > 1 or not open_prompts]
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
        "tool_set": [name for name, _ in _ranked(tools)[:_MAX_NAMES]],
        "open_tools": _next_is_new(tools, len(calls)),
        "asks": asks_of(calls),
    }


def output_kind_of(calls: Sequence[Call]) -> OutputKind:
    """What the task's answers are: tool calls where they are more than rare, else what four in five of them are, else text."""
    outputs = outputs_of(calls)
    answered = outputs.calls - outputs.shapes["none"]
    if outputs.shapes["tool_call"] > _TOOL_SHARE * answered:
        return OutputKind.TOOL_CALL
    if outputs.labels.total() >= _KIND_SHARE * max(1, answered):
        return OutputKind.LABEL
    if outputs.shapes["json"] >= _KIND_SHARE * max(1, answered):
        return OutputKind.JSON
    return OutputKind.TEXT


def asks_of(calls: Sequence[Call]) -> dict[str, Any]:
    """What the calls asked for beyond their messages, so that a new request can be compared; see `routing/capability.py`."""
    temperatures = [float(t) for c in calls if isinstance(t := c.settings.get("temperature"), (int, float))]
    limits = [
        int(v)
        for c in calls
        for name in ("max_tokens", "max_completion_tokens")
        if (v := c.settings.get(name))
    ]
    values: dict[str, Counter[str]] = {}
    for call in calls:
        for name, value in call.settings.items():
            values.setdefault(name, Counter())[json.dumps(value, sort_keys=True, default=str)] += 1
    lengths = sorted(len(call.content) for call in calls)
    return {
        "tools": calls[0].features.has_tools,
        "formats": sorted({call.features.format for call in calls}),
        "temperature": max(temperatures) if temperatures else None,
        "max_tokens": min(limits) if limits else None,
        "answer_chars": lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))],
        "last_roles": sorted({call.last_role for call in calls}),
        "tool_choices": sorted(
            {json.dumps(c.settings.get("tool_choice") or "auto", sort_keys=True, default=str) for c in calls}
        ),
        "settings": {
            name: [value for value, _ in _ranked(counts)[:_MAX_VALUES]]
            for name, counts in sorted(values.items())
        },
    }


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


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
            "keys": [key for key, _ in _ranked(keys.get(face.record, Counter()))[:_MAX_NAMES]],
        }
        for face in part.faces
    ]


def _languages(calls: Sequence[Call]) -> list[str]:
    counts = Counter(language(call.features) for call in calls)
    least = _LANGUAGE_SHARE * len(calls)
    return sorted(name for name, count in counts.items() if name == UNDECIDED or count > least)
