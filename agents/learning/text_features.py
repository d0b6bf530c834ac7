"""From a request to the n-grams that decide its label. Shared by training and serving, so that both see the same.

Owns: what is read of a request, how it is cut into n-grams, the vocabulary with its weights. Knows no labels.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from shoal.agents.traces.chat import ChatRequest, text_of

#: characters of the newest user message that are read, half from its start and half from its end
_USER_CHARS = 2400
#: characters of what was said before it
_CONTEXT_CHARS = 240
#: characters of a system prompt, where prompts are ever new
_SYSTEM_CHARS = 600
#: pairs of words that a text gives, about; in a longer one they must stand the nearer to each other, but so near always counts
_MOST_PAIRS = 400
_NEAREST = 2
_WORD = re.compile(r"\w+")
#: an n-gram in nearly every call decides nothing
_MOST_COMMON_SHARE = 0.98

#: the fields of a request, each with its own n-grams and its own norm
WORDS, CHARS, CONTEXT, SYSTEM, PROMPT = "w", "c", "x", "s", "p"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a vocabulary reads of a request besides the words, word pairs and characters of its newest user message.

    Attributes:
        context: what was said before.
        system: the system prompt.
        apart: of the newest message also pairs of words that stand apart, whichever comes first, in place of neighbours in order.
    """

    context: bool = False
    system: bool = False
    apart: bool = False


def fold(text: str) -> str:
    """Lower case, compatibility forms, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def grams(request: ChatRequest, prompt: int, reading: Reading) -> Iterator[tuple[str, list[str]]]:
    """The n-grams of a request by field. `prompt` is the place of its system prompt among several, or -1."""
    words, chars = all_grams(request.last_user_text, apart=reading.apart)
    yield WORDS, words
    yield CHARS, chars
    if reading.context:
        before = fold(_before(request)[-_CONTEXT_CHARS:])
        yield CONTEXT, _WORD.findall(before)
    if reading.system:
        yield SYSTEM, _WORD.findall(fold(_ends(request.system_text, _SYSTEM_CHARS)))
    if prompt >= 0:
        yield PROMPT, [str(prompt)]


def all_grams(text: str, *, apart: bool = False) -> tuple[list[str], list[str]]:
    """Words with pairs of them, and runs of characters, of a text of any length. `apart`: as in `Reading`."""
    text = fold(_ends(text, _USER_CHARS))
    words = _WORD.findall(text)
    if apart:
        return _words_and_pairs(words), list(_char_grams(text))
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)], list(_char_grams(text))


def _words_and_pairs(words: Sequence[str]) -> list[str]:
    """Each word, and each pair in alphabetic order: of all words of a short text, of near ones where that were too many.

    What a sentence asks for lies in which words it has together more than in their order: "my card has not come", "has my card
    come yet". Each counts once.
    """
    window = max(_NEAREST, _MOST_PAIRS // max(len(words), 1))
    found = dict.fromkeys(words)
    for i, first in enumerate(words):
        for second in words[i + 1 : i + 1 + window]:
            found[f"{first} {second}" if first <= second else f"{second} {first}"] = None
    return list(found)


def has_context(request: ChatRequest) -> bool:
    """Whether anything but system messages came before the newest user message."""
    return bool(_before(request))


def _before(request: ChatRequest) -> str:
    spoken = [m for m in request.messages if m["role"] not in ("system", "developer")]
    last_user = max((i for i, m in enumerate(spoken) if m["role"] == "user"), default=-1)
    return "\n".join(text_of(m) for i, m in enumerate(spoken) if i != last_user).strip()


def _ends(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars // 2]} {text[-chars // 2 :]}"


def _char_grams(text: str) -> Iterator[str]:
    """Runs of 2 to 5 characters within a word, with one space at each of its ends."""
    for word in text.split(" "):
        padded = f" {word} "
        length = len(padded)
        for n in (2, 3, 4, 5):
            if length <= n:
                yield padded
                break
            for start in range(length - n + 1):
                yield padded[start : start + n]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known n-grams, each with its inverse document frequency.

    Attributes:
        terms: for each field its n-grams with their rows; rows are numbered through, field after field.
        idf: weight of each row, shape (rows,).
    """

    terms: Mapping[str, Mapping[str, int]]
    idf: NDArray[np.float32]
    reading: Reading = field(default_factory=Reading)

    @classmethod
    def fit(
        cls,
        requests: Sequence[ChatRequest],
        prompts: Sequence[int],
        *,
        reading: Reading,
        min_calls: int,
        max_rows: int,
    ) -> Vocabulary:
        """Every n-gram that at least `min_calls` requests have; the most frequent `max_rows` of them.

        Those that nearly all requests have get weight 0.
        """
        frequency: dict[str, Counter[str]] = {}
        for request, prompt in zip(requests, prompts, strict=True):
            for name, found in grams(request, prompt, reading):
                frequency.setdefault(name, Counter()).update(set(found))
        count = len(requests)
        most = max(_MOST_COMMON_SHARE * count, min_calls)
        kept = [
            (name, gram, n)
            for name, counts in frequency.items()
            for gram, n in counts.items()
            if name == PROMPT or n >= min_calls
        ]
        kept.sort(key=lambda item: (-item[2], item[0], item[1]))
        kept = sorted(kept[:max_rows], key=lambda item: (item[0], item[1]))
        terms: dict[str, dict[str, int]] = {}
        for row, (name, gram, _) in enumerate(kept):
            terms.setdefault(name, {})[gram] = row
        # an n-gram of nearly every call decides nothing, but is well known
        idf = np.array(
            [
                0.0 if n > most and name != PROMPT else math.log((1 + count) / (1 + n)) + 1
                for name, _, n in kept
            ],
            dtype=np.float32,
        )
        return cls(terms=terms, idf=idf, reading=reading)

    def encode(
        self, request: ChatRequest, prompt: int
    ) -> tuple[NDArray[np.intp], NDArray[np.float32], float]:
        """The rows that a request has, the weight of each, and the share of its character n-grams that are known.

        Counts are damped (1 + log) and weighted by idf, and each field has Euclidean norm 1.
        """
        all_rows: list[NDArray[np.intp]] = []
        weights: list[NDArray[np.float32]] = []
        known_share = 0.0
        for name, found in grams(request, prompt, self.reading):
            get = self.terms.get(name, {}).get
            hits = [row for gram in found if (row := get(gram)) is not None]
            if name == CHARS:
                known_share = len(hits) / len(found) if found else 0.0
            if not hits:
                continue
            rows, counts = np.unique(np.asarray(hits, dtype=np.intp), return_counts=True)
            weight = (1 + np.log(counts)) * self.idf[rows]
            norm = float(np.sqrt(weight @ weight))
            if norm > 0:
                all_rows.append(rows[weight > 0])
                weights.append((weight[weight > 0] / norm).astype(np.float32))
        if not all_rows:
            return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.float32), known_share
        return np.concatenate(all_rows), np.concatenate(weights), known_share

    def to_json(self) -> str:
        """The n-grams in the order of their rows; `idf` is stored with the weights."""
        return json.dumps(
            {
                "terms": {name: list(grams) for name, grams in self.terms.items()},
                "context": self.reading.context,
                "system": self.reading.system,
                "apart": self.reading.apart,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, idf: NDArray[np.float32]) -> Vocabulary:
        """Raises ValueError where the n-grams and `idf` do not belong together."""
        data = json.loads(text)
        terms: dict[str, dict[str, int]] = {}
        row = 0
        for name, found in data["terms"].items():
            terms[name] = {gram: row + i for i, gram in enumerate(found)}
            row += len(found)
        if row != len(idf):
            raise ValueError(f"{row} n-grams, but {len(idf)} weights")
        return cls(
            terms=terms,
            idf=idf,
            reading=Reading(
                context=bool(data["context"]),
                system=bool(data["system"]),
                apart=bool(data.get("apart", False)),
            ),
        )


def encode_all(
    vocabulary: Vocabulary, requests: Sequence[ChatRequest], prompts: Sequence[int]
) -> tuple[csr_matrix, NDArray[np.float64]]:
    """Features of many requests, shape (requests, rows), and the share of known n-grams of each."""
    rows, values, ends, known = [], [], [0], []
    for request, prompt in zip(requests, prompts, strict=True):
        at, weight, share = vocabulary.encode(request, prompt)
        rows.append(at)
        values.append(weight)
        ends.append(ends[-1] + len(at))
        known.append(share)
    shape = (len(requests), len(vocabulary.idf))
    if not requests:
        return csr_matrix(shape), np.zeros(0)
    return csr_matrix((np.concatenate(values), np.concatenate(rows), ends), shape=shape), np.array(known)
