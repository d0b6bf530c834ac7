"""A specialist's model for function calls: what is learnt, how it fills a call in, how it is kept. Pure but for its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from shoal.agents.learning.calls.choices import ABSENT, choice_of
from shoal.agents.learning.calls.cues import Cues
from shoal.agents.learning.calls.deciding import Filled, call_options
from shoal.agents.learning.calls.mentions import Read, words_of
from shoal.agents.learning.calls.normal import Manner, Readings
from shoal.agents.learning.calls.places import Sight
from shoal.agents.learning.calls.ranker import BITS, hashed, shares
from shoal.agents.learning.calls.schema import FunctionSpec
from shoal.agents.learning.calls.values import Lore

#: bits by which a word is known, as a power of two
WORD_BITS = 17

WEIGHTS, RULES = "weights.safetensors", "calls.json"

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model makes of a request.

    `likely`: probability of each text that stands for no call, then of each function; `filled`: each function's arguments.
    """

    texts: Sequence[str]
    functions: Sequence[FunctionSpec]
    likely: NDArray[np.float64]
    filled: Sequence[Sequence[Filled]]


@dataclass(frozen=True, slots=True)
class CallModel:
    """`functions`: signatures that were called in training. `offered`: all that were offered. `texts`: the answers where none is called; "" for any text."""

    lore: Lore
    arguments: Weights
    calls: Weights
    functions: Mapping[str, int]
    offered: frozenset[str]
    texts: Sequence[str]
    #: a bit for each hashed word that users of several conversations said
    words: NDArray[np.uint8]

    def novelty(self, read: Read, values: Sequence[Any]) -> float:
        """Share of the newest user turn's words that the log never had, values that were pointed to aside."""
        last = read.conversation.newest("user")
        if last < 0:
            return 0.0
        pointed = {word for value in values for word in words_of(str(value))}
        said = {t.low for t in read.tokens[last] if t.low[0].isalpha()} - pointed
        strange = sum(not _bit(self.words, word) for word in said)
        return strange / len(said) if said else 0.0

    def fill(self, function: FunctionSpec, sight: Sight, group: str | None = None) -> list[Filled]:
        return fill(function, sight, self.lore, self.arguments, group)

    def decide(self, functions: Sequence[FunctionSpec], sight: Sight) -> Decision:
        filled = [self.fill(function, sight) for function in functions]
        options = call_options(self.texts, functions, filled, sight)
        return Decision(self.texts, functions, shares(options.scores(self.calls)), filled)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Any] = {}
        for name, weights in (("arguments", self.arguments), ("calls", self.calls)):
            places = np.flatnonzero(np.abs(weights) > 1e-4)
            tensors[f"{name}.places"] = places.astype(np.int32)
            tensors[f"{name}.weights"] = weights[places].astype(np.float16)
        tensors["words"] = self.words
        save_file(tensors, folder / WEIGHTS)
        rules = {
            "manners": {key: manner.to_dict() for key, manner in self.lore.manners.items()},
            "readings": {"by_form": self.lore.readings.by_form, "by_sort": self.lore.readings.by_sort},
            "cues": self.lore.cues.to_dict(),
            "distinct": sorted(list(pair) for pair in self.lore.distinct),
            "functions": dict(self.functions),
            "offered": sorted(self.offered),
            "texts": list(self.texts),
        }
        (folder / RULES).write_text(json.dumps(rules, ensure_ascii=False, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> CallModel:
        """Raises KeyError, ValueError or OSError where the folder holds no such model."""
        tensors = load_file(folder / WEIGHTS)
        rules = json.loads((folder / RULES).read_text(encoding="utf-8"))
        lore = Lore(
            {key: Manner.from_dict(manner) for key, manner in rules["manners"].items()},
            Readings(rules["readings"]["by_form"], rules["readings"]["by_sort"]),
            Cues.from_dict(rules["cues"]),
            frozenset((str(f), str(a), str(b)) for f, a, b in rules["distinct"]),
        )
        return cls(
            lore=lore,
            arguments=_whole(tensors, "arguments"),
            calls=_whole(tensors, "calls"),
            functions={str(k): int(v) for k, v in rules["functions"].items()},
            offered=frozenset(rules["offered"]),
            texts=tuple(map(str, rules["texts"])),
            words=tensors["words"],
        )


def words_said(reads: Sequence[tuple[Read, str]]) -> NDArray[np.uint8]:
    """Bits for the words that users said in at least two conversations; `reads`: with the conversation each belongs to."""
    owners: dict[int, str] = {}
    bits = np.zeros(1 << (WORD_BITS - 3), dtype=np.uint8)
    for read, group in reads:
        for turn, tokens in zip(read.conversation.turns, read.tokens, strict=True):
            for token in tokens if turn.role == "user" else ():
                place = hashed(token.low) >> (32 - WORD_BITS)
                if owners.setdefault(place, group) != group:
                    bits[place >> 3] |= 1 << (place & 7)
    return bits


def _bit(bits: NDArray[np.uint8], word: str) -> bool:
    place = hashed(word) >> (32 - WORD_BITS)
    return bool(bits[place >> 3] >> (place & 7) & 1)


def _whole(tensors: Mapping[str, NDArray[Any]], name: str) -> Weights:
    weights = np.zeros(1 << BITS, dtype=np.float32)
    weights[tensors[f"{name}.places"]] = tensors[f"{name}.weights"]
    return weights


def fill(
    function: FunctionSpec, sight: Sight, lore: Lore, weights: Weights, group: str | None = None
) -> list[Filled]:
    """Each argument with its likeliest value. One that is required is left out only where there is nothing else.

    Arguments that the log never gives the same value share none: the one that is less sure of it takes its next best.
    """
    found = []
    for arg in function.args:
        choice = choice_of(arg, sight, lore, group)
        likely = shares(choice.options.scores(weights))
        order = np.argsort(-likely, kind="stable").tolist()
        if arg.required and len(order) > 1:
            order.remove(0)
        found.append((choice, likely, order))
    best = [order[0] for _, _, order in found]
    for _ in range(len(found)):
        clash = _clash(function, found, best, lore)
        if clash is None:
            break
        one, other = clash
        taken = found[one][0].values[best[one]]
        # whichever loses less by giving the value up
        moves = []
        for n in (one, other):
            choice, likely, order = found[n]
            free = next((k for k in order if choice.values[k] != taken or k == 0), None)
            if free is not None:
                moves.append((float(likely[free] / max(likely[best[n]], 1e-12)), n, free))
        if not moves:
            break
        _, n, free = max(moves)
        best[n] = free
    return [
        Filled(choice, k, float(likely[k]), float(likely[0]))
        for (choice, likely, _), k in zip(found, best, strict=True)
    ]


def _clash(
    function: FunctionSpec, found: Sequence[Any], best: Sequence[int], lore: Lore
) -> tuple[int, int] | None:
    """Two arguments with the same value that never have the same."""
    for one in range(len(best)):
        for other in range(one):
            first, second = found[one][0], found[other][0]
            pair = (function.signature, *sorted((first.arg.name, second.arg.name)))
            same = first.values[best[one]] == second.values[best[other]]
            if same and best[one] and best[other] and pair in lore.distinct:
                return one, other
    return None


def arguments_of(filled: Sequence[Filled]) -> dict[str, Any]:
    """The call's arguments, in the schema's order."""
    return {one.choice.arg.name: one.value for one in filled if one.value is not ABSENT}
