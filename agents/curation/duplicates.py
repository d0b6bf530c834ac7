"""Calls that say the same as another, exactly or nearly. Pure; knows neither tasks nor models.

Near means: the same answer, the same system prompt, tools and numbers, and at least four fifths of the word triples of the
conversation in common, and of its last message alone. Candidates come from MinHash (Broder 1997; datasketch), and each is
checked exactly, so that a likeness that is only estimated drops nothing.

A call is looked at once and then known by digests alone, some 600 bytes, so that a log need not fit into memory.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from shoal.agents.traces.chat import ChatRequest, text_of

LIKENESS = 0.8
_PERMUTATIONS = 60
#: (bands, rows): 95 of 100 pairs with a likeness of 0.8 become candidates, and 99.9 of those with 0.9
_BANDS = (10, 6)
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")

_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], np.uint32)

Triples = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a call asked and got, as far as likeness goes; digests of 16 bytes.

    Attributes:
        request: the same for requests that say the same word for word: messages and tools.
        answer: the same for answers that are the same.
        kind: what near duplicates must have in common to the letter.
        triples, last: (n,) hashes of word triples, ascending: of the conversation, and of its last message.
    """

    request: bytes
    answer: bytes
    kind: bytes
    triples: Triples
    last: Triples

    @classmethod
    def of(cls, chat: ChatRequest, answer: str) -> Said:
        """`answer`: the same text for answers that say the same."""
        tools = to_json(chat.tools, fallback=dict)
        spoken = "\n".join(
            f"{m['role']}: {text_of(m)}" for m in chat.messages if m["role"] not in ("system", "developer")
        )
        numbers = " ".join(_NUMBER.findall(spoken))
        said = _digest(answer)
        return cls(
            request=_digest(to_json(chat.messages, fallback=dict), tools),
            answer=said,
            kind=_digest(said, tools, chat.system_text, numbers),
            triples=_triples(spoken),
            last=_triples(text_of(chat.messages[-1])),
        )


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Places in the given sequence that repeat another one that stays. `exact` and `near` share none."""

    exact: Set[int]
    near: Set[int]


def find_duplicates(calls: Iterable[Said], *, one_answer: bool) -> Duplicates:
    """Which calls may be left out because another that stays says the same.

    Args:
        one_answer: a request has one right answer: where the same request was answered in several ways, only the most frequent
            answer stays (of equals, the earliest). Otherwise each distinct answer stays.
    """
    known = list(calls)
    best = _usual_answers(known) if one_answer else {}
    seen: set[tuple[bytes, bytes]] = set()
    exact: set[int] = set()
    for place, call in enumerate(known):
        key = (call.request, call.answer)
        if key in seen or best.get(call.request, call.answer) != call.answer:
            exact.add(place)
        seen.add(key)
    kinds: dict[bytes, list[int]] = {}
    for place, call in enumerate(known):
        if place not in exact:
            kinds.setdefault(call.kind, []).append(place)
    return Duplicates(exact, _near(known, [places for places in kinds.values() if len(places) > 1]))


def _usual_answers(calls: Sequence[Said]) -> dict[bytes, bytes]:
    """The most frequent answer of each request that was answered in more than one way."""
    first: dict[bytes, bytes] = {}
    several = {c.request for c in calls if first.setdefault(c.request, c.answer) != c.answer}
    answers: dict[bytes, Counter[bytes]] = {request: Counter() for request in several}
    for call in calls:
        if call.request in several:
            answers[call.request][call.answer] += 1
    return {request: counts.most_common(1)[0][0] for request, counts in answers.items()}


def _near(calls: Sequence[Said], kinds: Iterable[Sequence[int]]) -> set[int]:
    """Of the calls of each kind, those that are near an earlier one that stays."""
    from datasketch import MinHash, MinHashLSH  # brings scipy; only needed to train

    # a copy shares the permutations, which take longer to make than a sketch
    blank = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=_as_it_is)
    found: set[int] = set()
    for places in kinds:
        index: Any = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
        for place in places:
            call = calls[place]
            sketch = blank.copy()
            sketch.update_batch(call.triples)
            if any(_alike(call, calls[other]) for other in sorted(index.query(sketch))):
                found.add(place)
            else:
                index.insert(place, sketch, check_duplication=False)
    return found


def _as_it_is(value: Any) -> Any:
    return value


def _alike(call: Said, other: Said) -> bool:
    return _jaccard(call.triples, other.triples) >= LIKENESS and _jaccard(call.last, other.last) >= LIKENESS


def _jaccard(one: Triples, other: Triples) -> float:
    shared = np.intersect1d(one, other, assume_unique=True).size
    return float(shared / max(1, one.size + other.size - shared))


def _digest(*parts: str | bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode("utf-8", "replace"))
        digest.update(b"\0")
    return digest.digest()


def _triples(text: str) -> Triples:
    """Runs of three words, without case and punctuation; of a shorter text the whole."""
    said = " ".join(_WORD.findall(text.casefold())).encode("utf-8", "replace")
    words = said.split()
    if len(words) < 3:
        return np.array([zlib.crc32(said)], np.uint32)
    hashed = np.fromiter(map(zlib.crc32, words), np.uint32, len(words))
    # odd factors, so that the order of the words counts; overflow is meant
    return np.unique(hashed[:-2] * _FACTORS[0] + hashed[1:-1] * _FACTORS[1] + hashed[2:] * _FACTORS[2])
