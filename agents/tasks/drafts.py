"""A job before it is a task: calls that were grouped, what recognises them, and the name and description that they suggest. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.tasks.about import tally
from shoal.agents.tasks.calls import Call, outputs_of
from shoal.agents.tasks.features import digest
from shoal.agents.tasks.match_data import match_data
from shoal.agents.tasks.naming import DULL, slug, telling_words, unique
from shoal.agents.tasks.split import Part
from shoal.agents.tasks.template import Template, content_words
from shoal.agents.tasks.turns import REST, shown

_MAX_DESCRIPTION = 400


@dataclass(slots=True)
class Draft:
    """A job before it has a name: one part of a family of prompts.

    Attributes:
        siblings: how many parts the family has.
    """

    template: Template
    part: Part
    siblings: int

    @property
    def calls(self) -> list[Call]:
        return self.part.calls


def as_tasks(drafts: Sequence[Draft], now: float) -> list[Task]:
    """A task for each draft, with unique names and ids; ids depend on what recognises the calls alone."""
    words_of = [set(word.lower() for word in content_words(draft.template.tokens)) for draft in drafts]
    elsewhere = Counter(word for words in words_of for word in words)
    tasks: list[Task] = []
    taken: set[str] = set()
    ids: set[str] = set()
    for draft, words in zip(drafts, words_of, strict=True):
        data = match_data(draft.part, draft.template)
        kind = tally(draft.calls).kind()
        others = elsewhere.copy()
        others.subtract(words)
        name = unique(_name(draft, others, kind), taken)
        shape = outputs_of(draft.calls).shapes.most_common(1)[0][0]
        parts = [*draft.template.runs, repr(data["faces"]), shape, data["format"], str(data["tools"])]
        if draft.part.turn:
            parts.append(repr(draft.part.turn))
        key = unique(digest(*parts)[:10], ids)
        taken.add(name)
        ids.add(key)
        tasks.append(
            Task(
                id=TaskId(f"t{key}"),
                name=name,
                output_kind=kind,
                calls=len(draft.calls),
                description=_description(draft, kind),
                match=data,
                created_at=now,
            )
        )
    return tasks


def _name(draft: Draft, elsewhere: Counter[str], kind: OutputKind) -> str:
    tokens = draft.template.tokens
    if draft.part.turn:
        return slug([*telling_words(tokens, elsewhere, count=1), *_what_follows(draft)])
    instructions = [f.instruction for f in draft.part.faces if f.instruction is not None]
    if instructions:
        tokens = [*instructions[0].tokens, *tokens]
    if draft.siblings <= 1 or instructions:
        return slug(telling_words(tokens, elsewhere)) or slug(_input_words(draft, kind)) or f"{kind}-task"
    base = telling_words(tokens, Counter(), count=1)
    return slug([*base, *_input_words(draft, kind)]) or f"{kind}-task"


def _input_words(draft: Draft, kind: OutputKind) -> list[str]:
    """What tells a job from its siblings: keys of its records, its functions, its labels, or words of its inputs."""
    keys = Counter(key for call in draft.calls for key in call.features.keys)
    if sum(bool(c.features.keys) for c in draft.calls) > len(draft.calls) / 2:
        return [key for key, _ in keys.most_common(2)]
    if draft.calls[0].features.has_tools:
        words = Counter(
            w for c in draft.calls for tool in c.features.tools for w in _parts(tool.split("(")[0])
        )
    elif kind is OutputKind.LABEL:
        labels = outputs_of(draft.calls).labels
        words = Counter()
        for label, count in labels.items():
            words.update(dict.fromkeys(_parts(label), count))
    else:
        words = Counter(
            w for c in draft.calls[:1000] for w in set(c.features.input.lower().split()) if w.isalpha()
        )
        if weights := draft.part.weights:
            words = Counter({w: round(n * max(0.0, weights.get(w, 0.0))) for w, n in words.items()})
    return [w for w in content_words([w for w, _ in words.most_common(100)]) if w not in DULL][:3]


def _what_follows(draft: Draft) -> list[str]:
    """`<function>` where one is called more often than anything else happens, else `reply`; and after which function."""
    actions = Counter(call.action or "reply" for call in draft.calls)
    after = [mark for mark, wanted in draft.part.turn if wanted and mark.startswith("after ")]
    if draft.part.turn == REST:
        return ["other", "turns"]
    return [actions.most_common(1)[0][0], *(part for mark in after[:1] for part in mark.split())]


def _parts(name: str) -> list[str]:
    """Words of a snake_case or CamelCase name."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", name)]


def _description(draft: Draft, kind: OutputKind) -> str:
    one = len({call.features.fingerprint for call in draft.calls}) == 1
    prompt = draft.calls[0].features.prompt.masked if one else draft.template.shown()
    parts = [" ".join(prompt.split())]
    for face in draft.part.faces:
        if face.instruction is not None:
            parts.append(face.instruction.shown().strip())
    if draft.siblings > 1:
        records = sorted({face.record for face in draft.part.faces if face.record})
        parts.append(f"input: {', '.join(records) or 'text'}; answers: {kind}")
    if draft.part.turn:
        actions = Counter(call.action or call.shape.partition(":")[0] for call in draft.calls)
        often = ", ".join(f"{name} {n / len(draft.calls):.0%}" for name, n in actions.most_common(3))
        parts = [
            f"turns of: {draft.template.shown()[:80]}…",
            shown(draft.part.turn),
            f"what followed: {often}",
        ]
    text = " | ".join(part for part in parts if part)
    return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1] + "…"
