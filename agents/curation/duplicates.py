"""Calls that say the same as another, exactly or nearly. Pure; knows neither tasks nor models.

Near means: the same answer, the same system prompt, tools and numbers, and at least nine tenths of the word triples of the
conversation in common, and of its last message alone. Candidates come from MinHash (Broder 1997; datasketch), and each is
checked exactly, so that a likeness that is only estimated drops nothing.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b

from pydantic_core import to_json

from shoal.agents.traces.chat import ChatRequest, text_of

LIKENESS = 0.9
_PERMUTATIONS = 64
#: (bands, rows): of pairs with a likeness of 0.9 all but 1% become candidates
_BANDS = (8, 8)
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


@dataclass(frozen=True, slots=True)
class Said:
    """What a call asked and got, as far as likeness goes.

    Attributes:
        request: the same for requests that are the same word for word.
        answer: the same for answers that say the same.
    """

    request: str
    answer: str
    chat: ChatRequest


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Places in the given sequence that repeat an earlier one. `exact` and `near` share none."""

    exact: Set[int]
    near: Set[int]


def find_duplicates(calls: Sequence[Said], *, one_answer: bool) -> Duplicates:
    """Which calls may be left out because another that stays says the same.

    Args:
        one_answer: a request has one right answer: where the same request was answered in several ways, only the most frequent
            answer stays (of equals, the earliest). Otherwise each distinct answer stays.
    """
    best = _usual_answers(calls) if one_answer else {}
    seen: set[tuple[str, str]] = set()
    exact: set[int] = set()
    for place, call in enumerate(calls):
        key = (call.request, call.answer)
        if key in seen or best.get(call.request, call.answer) != call.answer:
            exact.add(place)
        seen.add(key)
    return Duplicates(exact, _near(calls, [place for place in range(len(calls)) if place not in exact]))


def _usual_answers(calls: Sequence[Said]) -> dict[str, str]:
    """The most frequent answer of each request that was answered in more than one way."""
    answers: dict[str, Counter[str]] = {}
    for call in calls:
        answers.setdefault(call.request, Counter())[call.answer] += 1
    return {request: counts.most_common(1)[0][0] for request, counts in answers.items() if len(counts) > 1}


def _near(calls: Sequence[Said], places: Sequence[int]) -> set[int]:
    kinds: dict[bytes, list[int]] = {}
    for place in places:
        kinds.setdefault(_kind(calls[place]), []).append(place)
    found: set[int] = set()
    for alike in kinds.values():
        if len(alike) > 1:
            found.update(_near_in(calls, alike))
    return found


def _near_in(calls: Sequence[Said], places: Sequence[int]) -> list[int]:
    """Of calls of one kind, those that are near an earlier one that stays."""
    from datasketch import MinHash, MinHashLSH  # brings scipy; only needed to train

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
    found = []
    for place in places:
        triples = _triples(_spoken(calls[place].chat))
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
        sketch.update_batch([triple.encode("utf-8", "replace") for triple in sorted(triples)])
        if any(_alike(calls[place], triples, calls[other]) for other in sorted(index.query(sketch))):
            found.append(place)
        else:
            index.insert(place, sketch, check_duplication=False)
    return found


def _alike(call: Said, triples: Set[str], other: Said) -> bool:
    return (
        _jaccard(triples, _triples(_spoken(other.chat))) >= LIKENESS
        and _jaccard(_triples(_last(call.chat)), _triples(_last(other.chat))) >= LIKENESS
    )


def _jaccard(one: Set[str], other: Set[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _kind(call: Said) -> bytes:
    """What near duplicates must have in common to the letter."""
    numbers = " ".join(_NUMBER.findall(_spoken(call.chat)))
    digest = blake2b(to_json(call.chat.tools, fallback=dict), digest_size=16)
    for part in (call.answer, call.chat.system_text, numbers):
        digest.update(part.encode("utf-8", "replace") + b"\0")
    return digest.digest()


def _spoken(chat: ChatRequest) -> str:
    return "\n".join(
        f"{m['role']}: {text_of(m)}" for m in chat.messages if m["role"] not in ("system", "developer")
    )


def _last(chat: ChatRequest) -> str:
    return text_of(chat.messages[-1])


def _triples(text: str) -> set[str]:
    """Runs of three words, without case and punctuation; of a shorter text the whole."""
    words = _WORD.findall(text.casefold())
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
