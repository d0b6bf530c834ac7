"""Slots: which values of a task's prompts its answers carry over, and whether an answer carries them.

Owns the reading of a prompt into parts, the rules learnt from logged pairs (`SlotRules`), the replacing of values by
slots in an answer and back, and the check of an answer. Pure; knows nothing of tokens, models or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import Any

from shoal.agents.learning import forms as value_forms
from shoal.agents.learning.forms import (
    AS_IS,
    WORD,
    digit_groups,
    find_spans,
    is_flag,
    read_number,
    source_groups,
    tidy,
)
from shoal.agents.learning.records import Leaf, find_record, general_path
from shoal.agents.learning.training import Example
from shoal.agents.learning.wording import Wording
from shoal.agents.traces.chat import ChatRequest

#: values that are looked for in a text that is no record
MAX_FREE_VALUES = 500
_FREE = re.compile(
    r"\"([^\"\n]{1,200})\"|“([^”\n]{1,200})”|([$€£]?\d[\d,.]*\d%?|[$€£]?\d%?)|((?:[A-Z]\w+ )+[A-Z]\w+)"
)
_WORDS = re.compile(r"[^\W\d_]+")
_ELEMENT = re.compile(r"(.*\[\d+\])\.")
forms = lru_cache(maxsize=50_000)(value_forms.forms)
carries = value_forms.carries


class Role(StrEnum):
    """`REQUIRED`: answers nearly always carry the value. `OPTIONAL`: an open value that they often carry.
    `LITERAL`: the value steers the wording and is not carried."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    LITERAL = "literal"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request says, in order: literal text and values. `free`: there is no record, so spans count as values."""

    parts: tuple[str | Leaf, ...]
    free: bool

    @property
    def leaves(self) -> list[Leaf]:
        return [part for part in self.parts if isinstance(part, Leaf)]

    @property
    def text(self) -> str:
        return " ".join(part.text if isinstance(part, Leaf) else part for part in self.parts)


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that an answer may carry.

    Attributes:
        name: unique in its prompt; two values of one label have `#2`, `#3` on the second and third.
        label: what the values of all prompts in this place are called.
        form_order: the forms in which this place's values are written, the likeliest first.
    """

    name: str
    label: str
    leaf: Leaf
    required: bool
    form_order: tuple[str, ...] = ()

    @property
    def order(self) -> list[str]:
        """The names of all forms of this value, the likeliest first."""
        own = forms(self.leaf.text)
        return [name for name in self.form_order if name in own] + [
            n for n in own if n not in self.form_order
        ]


@dataclass(frozen=True, slots=True)
class Ref:
    """In place of a value: which slot, and in which form."""

    slot: str
    form: str


def read_prompt(request: ChatRequest) -> Prompt:
    """The last user message, as a record where it is one, else as text with its numbers, quotes and names as values."""
    text = request.last_user_text
    found = find_record(text)
    if found is not None:
        leaves = found.leaves
        if not any("[" in leaf.path for leaf in leaves):
            # one and the same object may come with its keys in any order
            leaves = sorted(leaves, key=lambda leaf: leaf.path)
        parts: list[str | Leaf] = [found.before, *leaves, found.after]
        return Prompt(tuple(part for part in parts if part), free=False)
    return Prompt(tuple(_free_parts(text)), free=True)


def _free_parts(text: str) -> list[str | Leaf]:
    parts: list[str | Leaf] = []
    at = 0
    seen: dict[str, int] = {}
    for match in islice(_FREE.finditer(text), MAX_FREE_VALUES):
        group = match.lastindex or 0
        kind = ("quoted", "quoted", "number", "name")[group - 1]
        if literal := text[at : match.start(group)].strip():
            parts.append(literal)
        at = match.end(group)
        parts.append(Leaf(f"{kind}[{seen.get(kind, 0)}]", match[group], match[group]))
        seen[kind] = seen.get(kind, 0) + 1
    if literal := text[at:].strip():
        parts.append(literal)
    return parts


@dataclass(frozen=True, slots=True)
class KeyRule:
    """What is known of one kind of place in the prompts: seen `n` times, carried `carried` times, and how."""

    n: int
    carried: int
    role: Role
    forms: tuple[str, ...] = ()


def _element(path: str) -> str:
    """The list element that a path stands in: `actions[0]` for `actions[0].values[1]`; empty if in none."""
    match = _ELEMENT.match(path)
    return match[1] if match else ""


def siblings(leaves: Sequence[Leaf], closed: frozenset[str]) -> dict[str, list[tuple[str, str]]]:
    """For each list element: its own closed values as (key, value), in order."""
    out: dict[str, list[tuple[str, str]]] = {}
    for leaf in leaves:
        element = _element(leaf.path)
        if element and general_path(leaf.path) in closed:
            out.setdefault(element, []).append((leaf.path[len(element) + 1 :], leaf.text))
    return out


def keys_of(leaf: Leaf, around: Mapping[str, list[tuple[str, str]]], closed: frozenset[str]) -> list[str]:
    """The kinds of place that this leaf belongs to, the most special first."""
    path = general_path(leaf.path)
    context = () if path in closed else around.get(_element(leaf.path), ())
    if not context:
        return [path]
    tags = [f"{key}={value}" for key, value in context]
    shape = "flag" if is_flag(leaf.text) else "number" if read_number(leaf.text) else "text"
    keys = ["|".join([path, *tags])] if len(tags) > 1 else []
    return keys + [f"{path}|{tag}" for tag in reversed(tags)] + [f"{path}:{shape}", path]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRules:
    """Which values of a prompt the answers of one task carry, learnt from logged pairs by `learn_slot_rules`.

    Attributes:
        examples: how many pairs it was learnt from.
        free_share: share of prompts without a record.
        unsourced_share: share of answers with numbers that the prompt does not have.
        closed: general paths whose few values steer the wording.
        keys: by kind of place; see `keys_of`.
        labels: kinds of place that are common enough to have a slot label of their own.
        numbers: numbers that answers of this task write although no prompt has them.
        lexicon: values of required slots that answers never write unless their prompt has them.
        signs: by kind of place, words that answers only use where the value is positive (1) or negative (-1).
        wording: words that show whether values that steer the wording were heeded.
        system: common start and end of the task's system prompts; what stands between them varies.
    """

    examples: int
    free_share: float = 0.0
    unsourced_share: float = 0.0
    closed: frozenset[str] = frozenset()
    keys: Mapping[str, KeyRule] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    lexicon: frozenset[str] = frozenset()
    signs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)
    system: tuple[str, str] = ("", "")

    def prompt(self, request: ChatRequest) -> Prompt:
        """The request's parts, with whatever varies in the system prompt at their head."""
        prompt = read_prompt(request)
        start, end = self.system
        text = request.system_text
        if text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end):
            text = text[len(start) : len(text) - len(end)]
        text = text.strip()
        return Prompt((text, *prompt.parts), prompt.free) if text else prompt

    def slots(self, prompt: Prompt) -> list[Slot]:
        """The values of a prompt that its answer must or may carry, in the prompt's order."""
        leaves = prompt.leaves
        around = siblings(leaves, self.closed)
        counts: dict[str, int] = {}
        out = []
        for leaf in leaves:
            keys = keys_of(leaf, around, self.closed)
            rule = next((self.keys[key] for key in keys if key in self.keys), None)
            if rule is None or rule.role is Role.LITERAL or not isinstance(leaf.value, str | int | float):
                continue
            if isinstance(leaf.value, bool) or not leaf.text.strip():
                continue
            label = next((key for key in keys[1:] + keys[:1] if key in self.labels), "")
            counts[label] = counts.get(label, 0) + 1
            name = label if counts[label] == 1 and label else f"{label}#{counts[label]}"
            out.append(Slot(name, label, leaf, rule.role is Role.REQUIRED, rule.forms))
        return out

    def errors(self, request: ChatRequest, answer: str) -> list[str]:
        """What an answer misses or makes up; empty where it is clean.

        Missing: the value of a required slot that stands in the answer in none of its forms (as written, absolute,
        with thousands separators, without trailing zeros, rounded, without `%`, underscores as spaces, a number word
        from two to twelve), letter case aside, at word boundaries. Invented: a number in digits, or a name with
        digits (`T1`), that neither the prompt has in some form nor this task's answers write by habit; a known value of a required slot that the
        prompt lacks; a word that says the opposite of a number's sign.
        """
        prompt = self.prompt(request)
        slots = self.slots(prompt)
        answer = tidy(answer)
        out = [
            f"missing {slot.leaf.path}: {slot.leaf.text}"
            for slot in slots
            if slot.required and not carries(answer, slot.leaf.text)
        ]
        known = numbers_of(prompt) | self.numbers | source_groups(request.system_text)
        out += [f"invented number: {n}" for n in dict.fromkeys(digit_groups(answer)) if n not in known]
        whole = f"{prompt.text}\n{request.system_text}"
        out += [f"invented value: {value}" for value in self._strange(whole, answer)]
        return out + self._contradictions(prompt, slots, answer)

    def unheeded(self, prompt: Prompt, answer: str) -> list[str]:
        """Values that should steer the wording, but of which no usual word stands in the answer, and such words of values that
        the prompt lacks: hints, no errors."""
        return self.wording.hints([tag_of(leaf) for leaf in prompt.leaves], answer)

    def _strange(self, source: str, answer: str) -> list[str]:
        found = [v for v in self.lexicon if v in answer and find_spans(answer, v) and not carries(source, v)]
        return sorted(v for v in found if not any(v != other and v in other for other in found))

    def _contradictions(self, prompt: Prompt, slots: Sequence[Slot], answer: str) -> list[str]:
        if not self.signs:
            return []
        words = set(_WORDS.findall(answer.lower())) - set(_WORDS.findall(prompt.text.lower()))
        out = []
        for slot in slots:
            number = read_number(slot.leaf.text)
            if number is None or number.value == 0:
                continue
            sign = 1 if number.value > 0 else -1
            said = self.signs.get(slot.label, {})
            out += [
                f"{slot.leaf.path} is {slot.leaf.text}: {w}" for w in sorted(words) if said.get(w) == -sign
            ]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "examples": self.examples,
            "free_share": self.free_share,
            "unsourced_share": self.unsourced_share,
            "closed": sorted(self.closed),
            "keys": {k: [r.n, r.carried, r.role.value, list(r.forms)] for k, r in self.keys.items()},
            "labels": sorted(self.labels),
            "numbers": sorted(self.numbers),
            "lexicon": sorted(self.lexicon),
            "signs": {k: dict(v) for k, v in self.signs.items()},
            "wording": self.wording.to_dict(),
            "system": list(self.system),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SlotRules:
        """Raises KeyError, TypeError or ValueError where `data` is not what `to_dict` gave."""
        return cls(
            examples=int(data["examples"]),
            free_share=float(data["free_share"]),
            unsourced_share=float(data["unsourced_share"]),
            closed=frozenset(data["closed"]),
            keys={k: KeyRule(n, c, Role(r), tuple(f)) for k, (n, c, r, f) in data["keys"].items()},
            labels=frozenset(data["labels"]),
            numbers=frozenset(data["numbers"]),
            lexicon=frozenset(data["lexicon"]),
            signs={k: dict(v) for k, v in data["signs"].items()},
            # folders made before there was more than evidence are read too
            wording=Wording.from_dict(
                data.get("wording") or {"evidence": data.get("evidence", {}), "telling": {}, "unasked": {}}
            ),
            system=(data["system"][0], data["system"][1]),
        )


def tag_of(leaf: Leaf) -> str:
    """`path=value`, list positions left out."""
    return f"{general_path(leaf.path)}={leaf.text}"


def numbers_of(prompt: Prompt) -> set[str]:
    """Every number that the prompt has, in any form in which an answer may write it."""
    out = source_groups(prompt.text)
    for text in {leaf.text for leaf in prompt.leaves}:
        for form in forms(text).values():
            out.update(digit_groups(form))
    return out


def learn_slot_rules(examples: Sequence[Example]) -> SlotRules:
    """Learn from logged pairs which values answers carry. Needs no labels; with no examples nothing is required."""
    from shoal.agents.learning.slot_learning import learn

    return learn(examples)


__all__ = ["AS_IS", "WORD", "Prompt", "Ref", "Role", "Slot", "SlotRules", "learn_slot_rules", "read_prompt"]
