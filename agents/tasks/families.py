"""Which system prompts are variants of one template, and therefore one call-site.

Agglomerative: a pair of similar prompts proposes what they have in common, every prompt that fits is called up as support,
and the proposal stands only if enough stays the same and the answers do not speak against it. Knows nothing of requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.agents.tasks.template import Template, content_words, normal, tokens_of

#: at least so many fixed words that say something, and such a share of the prompt
_MIN_CONTENT = 3
_MIN_SHARE = 0.25
#: two or three prompts alone must have more in common
_MIN_SHARE_OF_FEW = 0.6
#: fixed runs must be long on the average: scattered agreement is not a template
_MIN_MEAN_RUN = 3.5
#: from so many distinct prompts on, what varies is taken for a parameter
_MANY = 6
#: a prompt with fewer calls gives no evidence by its answers
_ENOUGH_CALLS = 50
_SHINGLE = 3
_INDEXED_TOKENS = 200
_CANDIDATES = 5
#: tokens aligned in all, so that thousands of long prompts take seconds
_MAX_ALIGNED_TOKENS = 600_000
#: prompts that are mostly data (passages, documents) share only their start and end: so many distinct ones must
_MANY_FRAMED = 20
_FRAME_KEY = 6
_MIN_FRAME = 10
_MIN_FRAME_CONTENT = 5
_FRAME_SHARE = 0.9
#: prompts looked up for each shingle, most calls first
_POSTINGS = 50
#: members with many calls whose answers are compared
_COMPARED = 12


@dataclass
class Outputs:
    """What the answers under one prompt look like, as far as two prompts are compared by it.

    Attributes:
        shapes: calls by coarse shape of the answer (`label:lower`, `json`, `text`, `tool_call`).
        labels: label-like answers with their counts.
        words: word counts of text answers.
        keys: top-level keys of JSON answers.
        chars: characters of text answers.
    """

    calls: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    chars: int = 0

    @property
    def shape(self) -> str:
        """The most frequent shape, without a label's style; tool calls first where they are more than rare."""
        if self.shapes["tool_call"] > 0.05 * self.calls:
            return "tool_call"
        coarse: Counter[str] = Counter()
        for shape, count in self.shapes.items():
            coarse[shape.partition(":")[0]] += count
        return coarse.most_common(1)[0][0] if coarse else "none"


@dataclass
class Family:
    """Prompts (by index) that share a template."""

    template: Template
    members: list[int]


@dataclass(frozen=True)
class Variant:
    """One distinct prompt: its text in normal form, and its answers."""

    text: str
    outputs: Outputs


def find_families(variants: Sequence[Variant]) -> list[Family]:
    """Partition prompts into families; a prompt like no other is a family of its own. Order: most calls first."""
    return _Search(variants).run()


class _Search:
    def __init__(self, variants: Sequence[Variant]) -> None:
        self.variants = variants
        self.order = sorted(
            range(len(variants)), key=lambda i: (-variants[i].outputs.calls, variants[i].text)
        )
        self.tokens = [variant.text.split() for variant in variants]
        self.shingles = [_shingles(tokens) for tokens in self.tokens]
        self.by_shingle: dict[str, list[int]] = defaultdict(list)
        for index in self.order:
            for shingle in self.shingles[index]:
                self.by_shingle[shingle].append(index)
        self.free = set(self.order)
        self.families: list[Family] = []
        self.family_of: dict[int, Family] = {}
        self.aligned_tokens = 0

    def run(self) -> list[Family]:
        for index in self.order:
            if index in self.free:
                self._place(index)
        self._frame()
        for index in self.order:
            if index in self.free:
                self.families.append(Family(Template.exact(self.tokens[index]), [index]))
        calls = [sum(self.variants[i].outputs.calls for i in family.members) for family in self.families]
        ranked = sorted(range(len(self.families)), key=lambda n: (-calls[n], self.families[n].members))
        return [self.families[n] for n in ranked]

    def _place(self, index: int) -> None:
        """Into a family that it fits or nearly fits; else try to found one with its likes; else leave it alone."""
        shared = Counter(
            other
            for shingle in self.shingles[index]
            for other in self.by_shingle[shingle][:_POSTINGS]
            if other != index
        )
        likes = [other for other, _ in sorted(shared.items(), key=lambda item: (-item[1], item[0]))]
        tried: set[int] = set()
        for other in likes[:200]:
            family = self.family_of.get(other)
            if family is None or id(family) in tried or len(tried) >= _CANDIDATES:
                continue
            tried.add(id(family))
            if self._join(family, index):
                return
        for other in [o for o in likes if o in self.free][:_CANDIDATES]:
            if self._found(index, other):
                return

    def _join(self, family: Family, index: int) -> bool:
        """Widen a family's template by one more prompt, if most of it stays."""
        if not self._affordable(index):
            return False
        template = family.template.generalised(self.tokens[index])
        if template.size < 0.7 * family.template.size:
            return False
        return self._accept(template, [*family.members, index], family)

    def _found(self, index: int, other: int) -> bool:
        if not self._affordable(index, other):
            return False
        template = Template.exact(self.tokens[index]).generalised(self.tokens[other])
        if len(content_words(template.tokens)) < _MIN_CONTENT:
            return False
        return self._accept(template, [index, other], None)

    def _affordable(self, *indices: int) -> bool:
        self.aligned_tokens += sum(len(self.tokens[i]) for i in indices)
        return self.aligned_tokens <= _MAX_ALIGNED_TOKENS

    def _frame(self) -> None:
        """Families of what is left: many prompts with the same start and end around data that differs."""
        by_start: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index in self.order:
            if index in self.free:
                by_start[tuple(self.tokens[index][:_FRAME_KEY])].append(index)
        for members in by_start.values():
            if len(members) < _MANY_FRAMED:
                continue
            head = _common_start([self.tokens[i] for i in members])
            tail = _common_start([self.tokens[i][: len(head) - 1 : -1] for i in members])[::-1]
            template = Template(runs=tuple(normal(run) for run in (head, tail) if run), ends=bool(tail))
            fitting = [i for i in members if template.fits(self.variants[i].text)]
            fitting = self._of_one_kind(fitting, fitting[0]) if fitting else []
            words = content_words(template.tokens)
            if (
                len(fitting) >= _MANY_FRAMED
                and template.size >= _MIN_FRAME
                and len(words) >= _MIN_FRAME_CONTENT
            ):
                self.families.append(Family(template, fitting))
                self.free.difference_update(fitting)

    def _accept(self, template: Template, seeds: list[int], family: Family | None) -> bool:
        shingles = {
            shingle for run in template.runs for shingle in _shingles(run.split())
        } & self.by_shingle.keys()
        rarest = min(shingles, key=lambda s: (len(self.by_shingle[s]), s), default=None)
        pool = self.by_shingle[rarest] if rarest is not None else []
        support = [i for i in pool if i in self.free and template.fits(self.variants[i].text)]
        members = sorted({*seeds, *support})
        members = self._of_one_kind(members, seeds[0])
        if not set(seeds) <= set(members) or not self._stands(template, members):
            return False
        self.free.difference_update(members)
        if family is None:
            family = Family(template, members)
            self.families.append(family)
        else:
            family.template, family.members = template, members
        self.family_of.update(dict.fromkeys(members, family))
        return True

    def _of_one_kind(self, members: list[int], first: int) -> list[int]:
        """Those whose answers have the first one's shape; prompts with few calls go along."""
        shape = self.variants[first].outputs.shape
        return [
            i
            for i in members
            if self.variants[i].outputs.shape == shape or self.variants[i].outputs.calls < _ENOUGH_CALLS // 5
        ]

    def _stands(self, template: Template, members: list[int]) -> bool:
        content = content_words(template.tokens)
        if len(content) < _MIN_CONTENT or template.size < _MIN_MEAN_RUN * len(_inner_runs(template)):
            return False
        lengths = sorted(len(self.tokens[i]) for i in members)
        share = template.size / max(1, lengths[len(lengths) // 2])
        if share < _MIN_SHARE:
            return False
        by_calls = sorted(members, key=lambda i: -self.variants[i].outputs.calls)
        big = [i for i in by_calls if self.variants[i].outputs.calls >= _ENOUGH_CALLS][:_COMPARED]
        if len(members) >= 3 and big and all(self._lists_labels(template, i) for i in big):
            return True
        if share < _MIN_SHARE_OF_FEW and len(members) < 4:
            return False
        pairs = [
            same_job(self.variants[a].outputs, self.variants[b].outputs)
            for n, a in enumerate(big)
            for b in big[n + 1 :]
        ]
        return sum(pairs) >= (0.5 if len(members) >= _MANY else 1.0) * len(pairs)

    def _lists_labels(self, template: Template, index: int) -> bool:
        """Whether the labels answered under a prompt stand in the part of it that varies."""
        outputs = self.variants[index].outputs
        if outputs.shape != "label" or not outputs.labels:
            return False
        filler = f" {template.fillers(self.variants[index].text)} "
        listed = sum(
            count for label, count in outputs.labels.items() if normal(tokens_of(label)).strip() in filler
        )
        return listed >= 0.8 * outputs.labels.total()


def same_job(left: Outputs, right: Outputs) -> bool:
    """Whether the answers of two well-filled groups could be those of one job."""
    if left.shape != right.shape:
        return False
    if left.shape == "label":
        return overlap(left.labels, right.labels) >= 0.3
    if left.shape == "json" and (left.keys or right.keys):
        return overlap(left.keys, right.keys) >= 0.5
    if left.shape == "text":
        a, b = left.chars / max(1, left.calls), right.chars / max(1, right.calls)
        return max(a, b) <= 2.5 * max(1.0, min(a, b)) and _cosine(left.words, right.words) >= 0.6
    return True


def overlap(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """The larger share of either side's mass that lies on what both have."""
    common = left.keys() & right.keys()
    return max(sum(side[key] for key in common) / max(1, sum(side.values())) for side in (left, right))


def _cosine(left: Counter[str], right: Counter[str]) -> float:
    # roots damp the few most frequent words, which any two texts share
    a = {word: count**0.5 for word, count in left.most_common(300)}
    b = {word: count**0.5 for word, count in right.most_common(300)}
    dot = sum(value * b.get(word, 0.0) for word, value in a.items())
    norm = (sum(v * v for v in a.values()) * sum(v * v for v in b.values())) ** 0.5
    return dot / norm if norm else 1.0


def _inner_runs(template: Template) -> list[str]:
    """Runs, without a last full stop and the like."""
    return [run for run in template.runs if run.count(" ") > 2] or list(template.runs)


def _common_start(prompts: Sequence[Sequence[str]]) -> list[str]:
    """The longest start that nine in ten of the prompts have."""
    start: list[str] = []
    alive = list(prompts)
    while True:
        following = Counter(prompt[len(start)] for prompt in alive if len(prompt) > len(start))
        if not following:
            return start
        token, count = min(following.items(), key=lambda item: (-item[1], item[0]))
        if count < _FRAME_SHARE * len(prompts):
            return start
        alive = [prompt for prompt in alive if len(prompt) > len(start) and prompt[len(start)] == token]
        start.append(token)


def _shingles(tokens: Sequence[str]) -> set[str]:
    ends = (
        tokens
        if len(tokens) <= 2 * _INDEXED_TOKENS
        else [*tokens[:_INDEXED_TOKENS], *tokens[-_INDEXED_TOKENS:]]
    )
    if len(ends) < _SHINGLE:
        return {" ".join(ends)}
    return {" ".join(ends[i : i + _SHINGLE]) for i in range(len(ends) - _SHINGLE + 1)}
