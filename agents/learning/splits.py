"""Which examples train, which choose and gate, which calibrate. The three never overlap, also not by conversation.

By conversation (at random), or by time: the gate then looks at the conversations that ended last, so that its figures say how a
specialist does on what came after all that it learnt from. Calibration is drawn at random from the whole log either way: the contract's
proof needs calls that are exchangeable with the traffic, and one window of time is not.

Pure: the same seed and groups give the same split, whatever the order of the examples. Knows no kind of model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from shoal.agents.contract.loss import canonical_json, normal_label
from shoal.agents.curation.duplicates import Said, find_duplicates
from shoal.agents.learning.training import Example
from shoal.agents.traces.chat import ChatRequest

#: share of the calls that choose and gate, where there are calls enough
CHOOSE_SHARE = 0.1
#: the gate wants so many calls to judge by, so small tasks give up a larger share
_WANTED_CHOOSE = 20
_MOST_CHOOSE = 0.2
#: share of the calls that calibrate, where there are calls enough
CALIBRATION_SHARE = 0.1
#: fewer calibration calls than this prove little at alpha = 0.05, so small tasks give up a larger share
_WANTED_CALIBRATION = 200
_MOST_CALIBRATION = 0.3
#: below so many calls a tenth more calibrates, or nothing could be proved at all
_FEW = 150
_MOST_OF_FEW = 0.4


#: timestamps follow conversations where so many of them (of more than one call) last no longer than such a share of the log
_SHORT_LIVED, _SHORT = 0.9, 0.1
#: fewer moments than this order nothing
_FEWEST_MOMENTS = 10

By: TypeAlias = Literal["auto", "conversation", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Examples by use. Every group stands in exactly one of the three.

    `by`: how `choose` was taken, `conversation` (at random) or `time` (those that ended last).
    """

    train: Sequence[Example]
    choose: Sequence[Example]
    calibration: Sequence[Example]
    by: str = "conversation"


def calibration_share(count: int) -> float:
    """0.1 from 2,000 calls on; below that more, up to 0.3, so that some 200 calls calibrate; 0.4 of fewer than 150."""
    if count <= 0:
        return CALIBRATION_SHARE
    most = _MOST_OF_FEW if count < _FEW else _MOST_CALIBRATION
    return min(max(_WANTED_CALIBRATION / count, CALIBRATION_SHARE), most)


def choose_share(count: int) -> float:
    """0.1 from 200 calls on; below that more, up to 0.2, so that some 20 calls choose and gate."""
    if count <= 0:
        return CHOOSE_SHARE
    return min(max(_WANTED_CHOOSE / count, CHOOSE_SHARE), _MOST_CHOOSE)


def split_examples(examples: Iterable[Example], *, seed: int, by: By = "conversation") -> Split:
    """Split by group: near 80/10/10, near 60/10/30 where there are few calls, and near 40/20/40 where there are a hundred.

    Groups are ordered by a hash of seed and group id, then dealt to calibration, choosing and training in that order,
    so a log that grows moves only the groups near a border.

    Args:
        by: `time`: of the groups that calibration leaves, those whose last call is latest choose; `auto`: so where timestamps
            follow conversations (`follows_time`).
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    count = sum(map(len, groups.values()))
    if by == "auto":
        by = "time" if follows_time(groups.values()) else "conversation"
    ranked = sorted(groups, key=lambda g: _rank(seed, g))
    calibration, rest = _dealt(ranked, groups, calibration_share(count) * count)
    if by == "time":
        rest.sort(key=lambda g: -_ended(groups[g]))
    choose, train = _dealt(rest, groups, choose_share(count) * count)
    # within a part the order is that of the hash, so that the first few are a fair sample
    place = {group: n for n, group in enumerate(ranked)}

    def calls(chosen: Iterable[str]) -> list[Example]:
        return [
            e for g in sorted(chosen, key=place.__getitem__) for e in sorted(groups[g], key=lambda e: e.id)
        ]

    split = Split(train=calls(train), choose=calls(choose), calibration=calls(calibration), by=by)
    check_split(split)
    return split


def _dealt(
    ordered: Sequence[str], groups: Mapping[str, Sequence[Example]], wanted: float
) -> tuple[list[str], list[str]]:
    """The first groups, near so many calls of them, and the others."""
    dealt = 0
    for n, group in enumerate(ordered):
        # the middle of the group decides, so that a large one lands where most of it belongs
        if dealt + len(groups[group]) / 2 >= wanted:
            return list(ordered[:n]), list(ordered[n:])
        dealt += len(groups[group])
    return list(ordered), []


def follows_time(groups: Iterable[Sequence[Example]]) -> bool:
    """Whether a log's timestamps order its conversations: they differ, and nearly all conversations are short beside the log."""
    every = list(groups)
    moments = {e.timestamp for group in every for e in group}
    if len(moments) < _FEWEST_MOMENTS:
        return False
    span = max(moments) - min(moments)
    lasting = [_ended(g) - min(e.timestamp for e in g) for g in every if len(g) > 1]
    return sum(s <= _SHORT * span for s in lasting) >= _SHORT_LIVED * len(lasting)


def _ended(group: Sequence[Example]) -> float:
    return max(e.timestamp for e in group)


def check_split(split: Split) -> None:
    """Raises ValueError where an example or a group stands on both sides of a border (it is named), or training knows what came
    after the conversations that a split by time holds out."""
    owner: dict[str, str] = {}
    for name in ("train", "choose", "calibration"):
        part: Sequence[Example] = getattr(split, name)
        for example in part:
            for key in (f"group {example.group}", f"call {example.id}"):
                if owner.setdefault(key, name) != name:
                    raise ValueError(
                        f"{key} stands in both {owner[key]} and {name}; a split must keep it whole."
                    )
    if split.by == "time" and (late := _later_in_training(split, split.train)):
        raise ValueError(f"{late} training calls were made after a held-out conversation had ended.")


def _later_in_training(split: Split, train: Sequence[Example]) -> int:
    """Training calls that were made after the first of the conversations that choose had ended."""
    ends: dict[str, float] = {}
    for example in split.choose:
        ends[example.group] = max(example.timestamp, ends.get(example.group, example.timestamp))
    first = min(ends.values(), default=float("inf"))
    return sum(e.timestamp > first for e in train)


def leakage(split: Split, train: Sequence[Example]) -> dict[str, int]:
    """How far the held-out calls stand in what was trained on; counts of calls, but for `conversations`.

    `conversations` must be 0, and so must `later_in_training` where the split is by time. That a held-out request was also asked in training is no fault where traffic repeats itself: held-out
    calls keep the traffic's own distribution. It is told so that figures can be read for what they are.

    Args:
        train: what was trained on, of `split.train`.
    """
    groups = {e.group for e in train}
    requests = {request_key(e.request): e.content for e in train}
    held_out = [*split.choose, *split.calibration]
    asked = [requests.get(request_key(e.request)) for e in held_out]
    return {
        "held_out": len(held_out),
        "conversations": len({e.group for e in held_out} & groups),
        "same_request": sum(content is not None for content in asked),
        "same_request_and_answer": sum(
            e.content == content for e, content in zip(held_out, asked, strict=True)
        ),
        "later_in_training": _later_in_training(split, train),
    }


def without_duplicates(
    train: Sequence[Example], *, one_answer: bool
) -> tuple[list[Example], Mapping[str, int]]:
    """The training calls without those that repeat another, exactly or nearly, and how many of each went.

    For training alone: what is held out keeps the traffic's own distribution. `one_answer`: see `find_duplicates`.
    """
    said = (Said.of(e.request, _answer_key(e.content, one_answer)) for e in train)
    found = find_duplicates(said, one_answer=one_answer)
    kept = [e for place, e in enumerate(train) if place not in found.exact and place not in found.near]
    return kept, {"exact": len(found.exact), "near": len(found.near)}


def _answer_key(content: str, one_answer: bool) -> str:
    """The same for answers that say the same; of texts, only white space may differ."""
    if one_answer:
        return canonical_json(content) or normal_label(content)
    return " ".join(content.split())


def request_key(request: ChatRequest) -> str:
    """A digest of what the request says: messages and tools, without model, metadata or sampling settings."""
    said = [request.messages, request.tools]
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def unseen(examples: Iterable[Example], train: Iterable[Example]) -> list[Example]:
    """The examples whose request does not stand, word for word, among `train`."""
    seen = {request_key(e.request) for e in train}
    return [e for e in examples if request_key(e.request) not in seen]


class Fingerprint:
    """A digest of which calls these are, and how they were answered, from calls in the order of their ids."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, call_id: str, content_sha256: str) -> None:
        self._digest.update(f"{call_id}\0{content_sha256}\0".encode())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def fingerprint(examples: Iterable[Example]) -> str:
    """As `Fingerprint`; the same examples in another order give the same one."""
    digest = Fingerprint()
    for example in sorted(examples, key=lambda e: e.id):
        digest.add(example.id, hashlib.sha256(example.content.encode("utf-8", "surrogatepass")).hexdigest())
    return digest.hexdigest()


def _rank(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=16).digest()
