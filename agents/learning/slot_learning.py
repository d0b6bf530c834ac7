"""Learning of `SlotRules` from logged pairs: how often each place's value occurs in the answer, and in which form.

Owns the thresholds. Pure; knows nothing of tokens, models or files.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.agents.learning.forms import digit_groups, find_spans, is_flag, read_number, source_groups, tidy
from shoal.agents.learning.records import general_path
from shoal.agents.learning.slots import (
    KeyRule,
    Prompt,
    Role,
    Slot,
    SlotRules,
    carries,
    forms,
    keys_of,
    numbers_of,
    read_prompt,
    siblings,
    tag_of,
)
from shoal.agents.learning.training import Example
from shoal.agents.learning.wording import Wording, learn_wording

#: share of a place's values that answers carry, from which on every answer must
REQUIRED_SHARE = 0.8
#: the same, from which on a value may be carried: one of few values, and one of many
OPTIONAL_SHARE = 0.6
OPTIONAL_OPEN_SHARE = 0.4
#: a kind of place seen less often than this is judged by a more general kind
MIN_SEEN = 5
#: a slot label of its own needs this many sightings
MIN_LABEL = 8
#: a path steers the wording if its values are few, seen often each, and less often carried than this
MAX_CLOSED = 400
CLOSED_SHARE = 0.5
#: values of required slots that are kept to recognise invented ones
MAX_LEXICON = 2000
_WORDS = re.compile(r"[^\W\d_]+")


@dataclass(slots=True)
class _Count:
    n: int = 0
    carried: int = 0
    values: set[str] = field(default_factory=set)
    forms: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, carried: bool, names: Sequence[str]) -> None:
        self.n += 1
        self.carried += carried
        if len(self.values) < 5000:
            self.values.add(text)
        self.forms.update(names)

    @property
    def share(self) -> float:
        return self.carried / self.n

    @property
    def open(self) -> bool:
        return len(self.values) > max(20, 0.2 * self.n)


@dataclass(frozen=True, slots=True)
class _Pair:
    prompt: Prompt
    system: str
    answer: str
    carried: dict[int, bool]


def learn(examples: Sequence[Example]) -> SlotRules:
    """See `shoal.agents.learning.slots.learn_slot_rules`."""
    pairs = []
    for example in examples:
        prompt = read_prompt(example.request)
        answer = tidy(example.content)
        carried = {i: carries(answer, leaf.text) for i, leaf in enumerate(prompt.leaves)}
        pairs.append(_Pair(prompt, example.request.system_text, answer, carried))
    if not pairs:
        return SlotRules(examples=0)
    paths = _count(pairs, None)
    closed = frozenset(path for path, count in paths.items() if _is_closed(path, count))
    counts = _count(pairs, closed)
    keys = {
        key: KeyRule(c.n, c.carried, _role(c, paths[re.split(r"[|:]", key)[0]]), _form_order(c))
        for key, c in counts.items()
        if c.n >= min(MIN_SEEN, len(pairs))
    }
    labels = frozenset(
        key for key, c in counts.items() if c.n >= MIN_LABEL and ":" not in key and key.count("|") <= 1
    )
    numbers, unsourced = _numbers(pairs)
    rules = SlotRules(
        examples=len(pairs),
        free_share=sum(pair.prompt.free for pair in pairs) / len(pairs),
        unsourced_share=unsourced,
        closed=closed,
        keys=keys,
        labels=labels,
        numbers=numbers,
        system=_common([pair.system for pair in pairs]),
    )
    slots = [rules.slots(pair.prompt) for pair in pairs]
    return SlotRules(
        **{
            **{name: getattr(rules, name) for name in SlotRules.__dataclass_fields__},
            "lexicon": _lexicon(pairs, slots),
            "signs": _signs(pairs, slots),
            "wording": _wording(pairs, slots),
        }
    )


def _is_closed(path: str, count: _Count) -> bool:
    few = len(count.values) <= min(MAX_CLOSED, max(2, 0.1 * count.n))
    return few and count.share < CLOSED_SHARE and not path.endswith("]")


def _count(pairs: Sequence[_Pair], closed: frozenset[str] | None) -> dict[str, _Count]:
    """Counts by general path, or by every kind of place once the closed paths are known."""
    counts: dict[str, _Count] = defaultdict(_Count)
    for pair in pairs:
        leaves = pair.prompt.leaves
        around = siblings(leaves, closed or frozenset())
        low = pair.answer
        for i, leaf in enumerate(leaves):
            names: list[str] = []
            if closed is not None and pair.carried[i]:
                names = [name for name, form in forms(leaf.text).items() if find_spans(low, form)]
            for key in [general_path(leaf.path)] if closed is None else keys_of(leaf, around, closed):
                counts[key].add(leaf.text, pair.carried[i], names)
    return counts


def _role(count: _Count, path: _Count) -> Role:
    if all(is_flag(value) for value in count.values):
        return Role.LITERAL
    if count.share >= REQUIRED_SHARE:
        return Role.REQUIRED
    enough = OPTIONAL_OPEN_SHARE if count.open or path.open else OPTIONAL_SHARE
    return Role.OPTIONAL if count.share >= enough else Role.LITERAL


def _form_order(count: _Count) -> tuple[str, ...]:
    """The commonest forms first; equally common ones in the order in which `forms` gives them."""
    return tuple(name for name, _ in sorted(count.forms.items(), key=lambda item: -item[1]))


def _numbers(pairs: Sequence[_Pair]) -> tuple[frozenset[str], float]:
    """Numbers that answers write without a source, if they are a habit; share of answers that have others."""
    strange = []
    for pair in pairs:
        groups = set(digit_groups(pair.answer))
        strange.append(groups - numbers_of(pair.prompt) - source_groups(pair.system) if groups else groups)
    seen = Counter(number for numbers in strange for number in numbers)
    habits = {number for number, n in seen.items() if n >= max(3, 0.02 * len(pairs))}
    return frozenset(habits), sum(bool(numbers - habits) for numbers in strange) / len(pairs)


def _lexicon(pairs: Sequence[_Pair], slots: Sequence[Sequence[Slot]]) -> frozenset[str]:
    """Capitalised values of required slots that hardly any answer writes without its prompt having them."""
    seen = Counter(
        slot.leaf.text
        for some in slots
        for slot in some
        if slot.required and len(slot.leaf.text) >= 3 and slot.leaf.text[:1].isupper()
    )
    values = [value for value, _ in seen.most_common(MAX_LEXICON)]
    if not values:
        return frozenset()
    spurious: Counter[str] = Counter()
    for pair in pairs:
        said = [v for v in values if v in pair.answer and find_spans(pair.answer, v)]
        if said:
            source = f"{pair.prompt.text}\n{pair.system}"
            spurious.update(value for value in said if not carries(source, value))
    return frozenset(value for value in values if spurious[value] <= 0.02 * seen[value])


def _signs(pairs: Sequence[_Pair], slots: Sequence[Sequence[Slot]]) -> dict[str, dict[str, int]]:
    """For each number that may be negative: words that keep to one sign although the other is common enough."""
    words: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    totals: dict[str, Counter[int]] = defaultdict(Counter)
    for pair, some in zip(pairs, slots, strict=True):
        numbers = [(slot, read_number(slot.leaf.text)) for slot in some]
        said: set[str] | None = None
        for slot, number in numbers:
            if number is None or number.value == 0 or not slot.required or not slot.label:
                continue
            if said is None:
                said = set(_WORDS.findall(pair.answer.lower())) - set(
                    _WORDS.findall(pair.prompt.text.lower())
                )
            sign = 1 if number.value > 0 else -1
            totals[slot.label][sign] += 1
            words[slot.label].update((word, sign) for word in said)
    out: dict[str, dict[str, int]] = {}
    for label, total in totals.items():
        if min(total[1], total[-1]) < 10:
            continue
        everything = total[1] + total[-1]
        kept = {}
        for word in {word for word, _ in words[label]}:
            for sign in (1, -1):
                with_sign, against = words[label][word, sign], words[label][word, -sign]
                expected = (with_sign + against) * total[-sign] / everything
                if expected >= 5 and against <= 0.01 * with_sign:
                    kept[word] = sign
        if kept:
            out[label] = dict(sorted(kept.items()))
    return out


def _wording(pairs: Sequence[_Pair], slots: Sequence[Sequence[Slot]]) -> Wording:
    """From the values that are not always carried, outside of lists."""
    answers = []
    for pair, some in zip(pairs, slots, strict=True):
        carried = {id(slot.leaf): slot.leaf.text for slot in some if slot.required}
        leaves = [leaf for leaf in pair.prompt.leaves if id(leaf) not in carried and "[" not in leaf.path]
        answers.append(([tag_of(leaf) for leaf in leaves], pair.answer, list(carried.values())))
    return learn_wording(answers)


def _common(texts: Sequence[str]) -> tuple[str, str]:
    """The words with which all texts start, and those with which they all end, without overlap."""
    different = list(dict.fromkeys(texts))
    if len(different) == 1:
        return different[0], ""
    split = [re.split(r"(?<=\s)", text) for text in different]
    shortest = min(len(words) for words in split)
    start = 0
    while start < shortest and all(words[start] == split[0][start] for words in split):
        start += 1
    end = 0
    while end < shortest - start and all(words[-1 - end] == split[0][-1 - end] for words in split):
        end += 1
    tail = "".join(split[0][len(split[0]) - end :]) if end else ""
    return "".join(split[0][:start]), tail


__all__ = ["learn"]
