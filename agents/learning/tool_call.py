"""Trains specialists that call functions: which function or none, and each argument pointed to in the conversation. Engine:
`serve/engines/tool_call.py`; what they are made of: `agents/learning/calls/`.

Linear models throughout: one ranks the values that an argument could take, one chooses between no call and each function that
the request offers, knowing how the first would fill each in. So values that the log never had are right, and a few hundred calls are
enough. Weights are kept as soon as they are fitted, so that a run that was killed fits none of them twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shoal.agents.contract.loss import normal_label
from shoal.agents.learning.calls.choices import ABSENT, choice_of
from shoal.agents.learning.calls.cues import learn_cues
from shoal.agents.learning.calls.deciding import call_options
from shoal.agents.learning.calls.kept_fits import KeptFits
from shoal.agents.learning.calls.mentions import read
from shoal.agents.learning.calls.model import CallModel, Weights, fill, words_said
from shoal.agents.learning.calls.normal import MADE_UP, Known, learn_manners, learn_readings
from shoal.agents.learning.calls.places import Sight
from shoal.agents.learning.calls.ranker import Options, fit, shares
from shoal.agents.learning.calls.schema import FunctionSpec, functions_of
from shoal.agents.learning.calls.turns import conversation_of
from shoal.agents.learning.calls.values import Lore
from shoal.agents.learning.splits import fingerprint
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.errors import DataError

KIND = "tool_call"

#: so many calls of a function, or it is not learnt
MIN_SEEN = 3
#: nominal seconds for each call; where the time does not reach for all, as many conversations as it does are learnt from
SECONDS_PER_CALL = 0.03
#: answers without a call are a closed set where so few texts cover so many of them
_MOST_TEXTS = 20
_TEXT_SHARE = 0.98
#: two arguments never have the same value where so many calls have both, and at most this share the same
_PAIRS, _SAME_SHARE = 5, 0.03
#: an argument whose values are found less often than this is made up by the generalist
_MADE_UP = 0.8
_FOLDS = 3
_ARGUMENT_STRENGTH = 1.0
#: tried on the calls of one fold, trained on the others
_CALL_STRENGTHS = (0.02, 0.3)
_ARGUMENT_STEPS = 60
_CALL_STEPS = 80
#: any text, where they are no closed set: such a turn is left to the generalist
FREE = ""


@dataclass
class _Lesson:
    """A training call taken apart. `target`: the function called, or the text where none is."""

    sight: Sight
    functions: list[FunctionSpec]
    group: str
    fold: int
    function: int
    arguments: Mapping[str, Any]
    text: str = FREE


def train_tool_call(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train such a specialist into `folder`. Files: `calls.json`, `weights.safetensors`.

    Raises:
        DataError: no function is called often enough.
    """
    context.progress(0.05, "reading conversations")
    taken = _within(train, int(context.seconds / SECONDS_PER_CALL), context.seed)
    texts = closed_texts([e.content for e in taken if not e.tool_calls])
    lessons, functions, left_out = _lessons(taken, texts, context.seed)
    _stop_if_asked(context)
    context.progress(0.15, "learning how values come about")
    known = [
        Known(
            arg, lesson.arguments.get(arg.name), arg.name in lesson.arguments, lesson.sight.read, lesson.group
        )
        for lesson in lessons
        if lesson.function >= 0
        for arg in lesson.functions[lesson.function].args
    ]
    lore = _lore(known, _distinct(lessons))
    context.progress(0.25, "finding values")
    choices, right, folds, unfound = _choices(lessons, lore, context)
    if _give_up(lore, known, unfound):
        # what was remembered of their candidates must be as when serving: there are none
        for lesson in lessons:
            lesson.sight.memo.clear()
    kept = KeptFits(context.work / KIND, f"{context.seed} {fingerprint(taken)}")
    parts: list[Weights] = []
    for fold in range(_FOLDS):
        context.progress(0.35 + 0.15 * fold, "training arguments")
        fold_fit = partial(_fit_arguments, choices, right, folds != fold, context)
        parts.append(kept.get(f"arguments-{fold}", fold_fit))
    every = np.ones(len(choices), bool)
    whole = kept.get("arguments", lambda: _fit_arguments(choices, right, every, context))
    context.progress(0.8, "filling calls in")
    options, gold = [], []
    for lesson in lessons:
        _stop_if_asked(context)
        filled = [fill(f, lesson.sight, lore, parts[lesson.fold], lesson.group) for f in lesson.functions]
        options.append(call_options(texts, lesson.functions, filled, lesson.sight))
        gold.append(len(texts) + lesson.function if lesson.function >= 0 else texts.index(lesson.text))
    context.progress(0.9, "training the choice of functions")
    strength, calls = _fit_calls(options, gold, np.array([lesson.fold for lesson in lessons]), kept, context)
    offered = Counter(f.signature for lesson in lessons for f in lesson.functions)
    model = CallModel(
        lore=Lore(lore.manners, lore.readings, lore.cues, lore.distinct),
        arguments=whole,
        calls=calls,
        functions=dict(functions),
        offered=frozenset(s for s, n in offered.items() if n >= MIN_SEEN),
        texts=texts,
        words=words_said([(lesson.sight.read, lesson.group) for lesson in lessons]),
    )
    model.save(folder)
    context.progress(1.0, "trained")
    return TrainReport(
        kind=KIND,
        steps=len(lessons),
        cut_by_clock=False,
        details={
            "functions": dict(functions),
            "arguments": {key: manner.sort for key, manner in lore.manners.items()},
            "texts": list(texts),
            "values_not_found": unfound,
            "strength": strength,
            "left_out": left_out | ({"no time": len(train) - len(taken)} if len(taken) < len(train) else {}),
        },
    )


def _within(train: Sequence[Example], most: int, seed: int) -> Sequence[Example]:
    """At most so many calls, whole conversations, drawn by a hash; those kept stay in their order."""
    if len(train) <= most:
        return train
    sizes = Counter(e.group for e in train)
    kept: set[str] = set()
    for group in sorted(
        sizes, key=lambda g: hashlib.blake2b(f"{seed}\0{g}".encode(), digest_size=8).digest()
    ):
        if sizes[group] > most:
            break
        most -= sizes[group]
        kept.add(group)
    return [e for e in train if e.group in kept]


def closed_texts(contents: Sequence[str]) -> tuple[str, ...]:
    """The texts that are answered where nothing is called, most frequent first; `FREE` alone where they are no closed set."""
    counts: Counter[str] = Counter()
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for content in contents:
        counts[normal_label(content)] += 1
        spelt[normal_label(content)][content.strip()] += 1
    common = [text for text, n in counts.most_common(_MOST_TEXTS) if n >= MIN_SEEN]
    covered = sum(counts[text] for text in common)
    if not common or covered < _TEXT_SHARE * counts.total():
        return (FREE,)
    return tuple(spelt[text].most_common(1)[0][0] for text in common)


def _lessons(
    train: Sequence[Example], texts: Sequence[str], seed: int
) -> tuple[list[_Lesson], Counter[str], dict[str, int]]:
    by_label = {normal_label(text): text for text in texts}
    taken: list[tuple[Example, list[FunctionSpec], int, Mapping[str, Any]]] = []
    left_out: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for example in train:
        offered = functions_of(example.request)
        if not example.tool_calls:
            if texts[0] != FREE and normal_label(example.content) not in by_label:
                left_out["a rare text"] += 1
                continue
            taken.append((example, offered, -1, {}))
            continue
        if len(example.tool_calls) > 1:
            left_out["several calls at once"] += 1
            continue
        place, arguments = called(example.tool_calls[0], offered)
        if arguments is None:
            left_out["a call that its tools do not allow"] += 1
            continue
        counts[offered[place].signature] += 1
        taken.append((example, offered, place, arguments))
    functions = Counter({s: n for s, n in sorted(counts.items()) if n >= MIN_SEEN})
    if not functions:
        raise DataError(f"None of its functions is called at least {MIN_SEEN} times in {len(train)} calls.")
    lessons = []
    for example, offered, place, arguments in taken:
        if place >= 0 and offered[place].signature not in functions:
            left_out["a function called too rarely"] += 1
            continue
        lessons.append(
            _Lesson(
                sight=Sight(read(conversation_of(example.request))),
                functions=offered,
                group=example.group,
                fold=_fold(example.group, seed),
                function=place,
                arguments=arguments,
                text=by_label.get(normal_label(example.content), texts[0]) if place < 0 else FREE,
            )
        )
    return lessons, functions, dict(left_out)


def called(call: Mapping[str, Any], offered: Sequence[FunctionSpec]) -> tuple[int, Mapping[str, Any] | None]:
    """Which of the functions is called, with which arguments; None where it is not offered or they are no JSON object."""
    function = call.get("function") or {}
    place = next((n for n, f in enumerate(offered) if f.name == function.get("name")), -1)
    arguments = function.get("arguments")
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except ValueError:
        return place, None
    return place, value if place >= 0 and isinstance(value, Mapping) else None


def _fold(group: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0fold\0{group}".encode(), digest_size=4).digest()) % _FOLDS


def _distinct(lessons: Sequence[_Lesson]) -> frozenset[tuple[str, str, str]]:
    """Pairs of a function's arguments that both have a value, and hardly ever the same one."""
    both: Counter[tuple[str, str, str]] = Counter()
    same: Counter[tuple[str, str, str]] = Counter()
    for lesson in lessons:
        if lesson.function < 0:
            continue
        signature = lesson.functions[lesson.function].signature
        given = sorted((k, v) for k, v in lesson.arguments.items() if isinstance(v, str))
        for n, (one, value) in enumerate(given):
            for other, another in given[n + 1 :]:
                both[signature, one, other] += 1
                same[signature, one, other] += value == another
    return frozenset(pair for pair, n in both.items() if n >= _PAIRS and same[pair] <= _SAME_SHARE * n)


def _lore(known: Sequence[Known], distinct: frozenset[tuple[str, str, str]]) -> Lore:
    manners = learn_manners(known)
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in known:
        if one.given and isinstance(one.value, str | int | float | bool):
            owners[one.arg.key, str(one.value)].add(one.group)
    return Lore(
        manners,
        learn_readings(known, manners),
        learn_cues(known, manners),
        distinct,
        {key: frozenset(own) for key, own in owners.items()},
    )


def _choices(
    lessons: Sequence[_Lesson], lore: Lore, context: TrainContext
) -> tuple[list[Options], list[int], Any, dict[str, int]]:
    """The candidates of every argument that was given or left out, and the right one's place."""
    choices: list[Options] = []
    right: list[int] = []
    folds: list[int] = []
    unfound: Counter[str] = Counter()
    for lesson in lessons:
        _stop_if_asked(context)
        if lesson.function < 0:
            continue
        for arg in lesson.functions[lesson.function].args:
            choice = choice_of(arg, lesson.sight, lore, lesson.group)
            place = 0
            if arg.name in lesson.arguments:
                wanted = lesson.arguments[arg.name]
                place = next(
                    (n for n, v in enumerate(choice.values) if n and v == wanted and v is not ABSENT), 0
                )
                if not place:
                    unfound[arg.key] += 1
            if len(choice.values) > 1:
                choices.append(choice.options)
                right.append(place)
                folds.append(lesson.fold)
    return choices, right, np.array(folds), dict(unfound)


def _give_up(lore: Lore, known: Sequence[Known], unfound: Mapping[str, int]) -> bool:
    """Arguments whose values are hardly ever found are made up by the generalist, and not given. Whether there are any."""
    given = Counter(one.arg.key for one in known if one.given)
    found = False
    for key, missed in unfound.items():
        if given[key] >= MIN_SEEN and missed >= _MADE_UP * given[key]:
            lore.manners[key].sort = MADE_UP
            found = True
    return found


def _fit_arguments(
    choices: Sequence[Options], right: Sequence[int], chosen: Any, context: TrainContext
) -> Weights:
    rows = np.flatnonzero(chosen).tolist()
    return fit(
        [choices[n] for n in rows],
        [right[n] for n in rows],
        strength=_ARGUMENT_STRENGTH,
        steps=_ARGUMENT_STEPS,
        stopped=context.stopped,
    )


def _fit_calls(
    options: Sequence[Options], gold: Sequence[int], folds: Any, kept: KeptFits, context: TrainContext
) -> tuple[float, Weights]:
    """Weights of the choice of functions, with the strength that is least surprised by conversations it was not trained on."""

    def fitted(name: str, rows: Sequence[int], strength: float) -> Weights:
        chosen = [options[n] for n in rows], [gold[n] for n in rows]
        return kept.get(
            f"calls-{name}-{strength}",
            lambda: fit(*chosen, strength=strength, steps=_CALL_STEPS, stopped=context.stopped),
        )

    inside, outside = np.flatnonzero(folds != 0).tolist(), np.flatnonzero(folds == 0).tolist()
    surprises = []
    for strength in _CALL_STRENGTHS:
        if inside and outside:
            weights = fitted("inside", inside, strength)
            given = [shares(options[n].scores(weights))[gold[n]] for n in outside]
            surprises.append(-float(np.log(np.maximum(given, 1e-9)).mean()))
    best = _CALL_STRENGTHS[int(np.argmin(surprises))] if surprises else _CALL_STRENGTHS[-1]
    return best, fitted("all", range(len(options)), best)


def _stop_if_asked(context: TrainContext) -> None:
    if context.stopped():
        raise KeyboardInterrupt
