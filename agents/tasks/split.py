"""Several jobs under one prompt: told apart by what stands around the input, its structure, the shape of the answers, and the density of its words.

A split by answers stands only where the requests alone tell the parts apart, because a call must be recognised before it
is answered; a split by density only where the answers do not speak against it. Answers are not needed: where they are not
to be used, or say nothing because all are the same, the requests decide alone. Calls that offer tools are split by the
stage of their conversation (`turns.py`). Knows nothing of system prompts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from shoal.agents.ports import Embedder
from shoal.agents.tasks.calls import Call, outputs_of
from shoal.agents.tasks.density import MIN_TEXTS, populations
from shoal.agents.tasks.families import Variant, find_families, overlap, same_job
from shoal.agents.tasks.features import components, digest, evidence_of, instructions_in
from shoal.agents.tasks.shapes import RECORDS, AnswerShape, Structure
from shoal.agents.tasks.template import Template
from shoal.agents.tasks.turns import Rule, Turn, kind_of, kinds_of_turn

#: requests alone must tell two parts apart this well (balanced, cross-validated)
_TELLS_APART = 0.95
#: a part has at least so many calls, and such a share of what it is split from
MIN_PART = 20
_MIN_SHARE = 0.01
#: an instruction around the input counts from this share of the calls on
_MIN_INSTRUCTED = 0.02
#: transcripts among other texts are a face of their own where each has such a share of the calls
_MIN_TRANSCRIPTS = 0.05
#: from this share of one and the same answer on, answers tell nothing
_SAME_ANSWER = 0.99
_SAMPLE = 1200
_FIT_SAMPLE = 3000
_FOLDS = 3
_MAX_CELLS = 8
_MAX_WEIGHTS = 2000


@dataclass(frozen=True, kw_only=True)
class Face:
    """What a request looks like from outside its words.

    Attributes:
        instruction: the template of the instruction around the input, if it is a frequent one.
        record: the structure of an input that is a record, or a transcript among other texts; empty for running text.
        component: names the keys that occur together in such records.
    """

    instruction: Template | None = None
    record: str = ""
    component: str = ""


@dataclass(kw_only=True)
class Part:
    """Calls of one job among those under a prompt. `weights` (evidence -> weight, with `bias`) are there where words decide.

    Attributes:
        core: where density made the part, its calls whose population was seen; weights are learnt from them.
        turn: where the stage of the conversation decides: what holds in it and what does not; see `turns.py`.
    """

    calls: list[Call]
    faces: list[Face]
    weights: dict[str, float] = field(default_factory=dict)
    bias: float = 0.0
    core: list[Call] = field(default_factory=list)
    turn: tuple[tuple[str, bool], ...] = ()


def split_calls(
    calls: Sequence[Call],
    *,
    seed: int,
    use_answers: bool = True,
    known_turns: Sequence[Rule] = (),
    embedder: Embedder | None = None,
) -> list[Part]:
    """Partition the calls under one prompt into jobs, largest first. One part where nothing tells them apart.

    Args:
        use_answers: False to decide from the requests alone.
        known_turns: the kinds of turn that these calls were split into before.
        embedder: which texts are near each other, where density decides; see `density.py`.
    """
    if calls[0].features.has_tools:
        return _by_turn(calls, known_turns, seed) if use_answers else [Part(calls=list(calls), faces=[])]
    if len(calls) < 2 * MIN_PART:
        return [Part(calls=list(calls), faces=[])]
    use_answers = use_answers and _answers_tell(calls)
    by_face: dict[Face, list[Call]] = defaultdict(list)
    for face, call in zip(_faces(calls, use_answers), calls, strict=True):
        by_face[face].append(call)
    least = max(MIN_PART, _MIN_SHARE * len(calls))
    parts: list[Part] = []
    for face, inside in by_face.items():
        cells = _cells(inside, least=least, seed=seed) if use_answers else [inside]
        for cell in cells:
            parts.extend(_by_density(cell, face, embedder, seed=seed, use_answers=use_answers))
    if use_answers:
        parts = _joined_by_answers(parts)
    _weigh(parts, seed)
    return sorted(parts, key=lambda part: (-len(part.calls), part.calls[0].id))


def _answers_tell(calls: Sequence[Call]) -> bool:
    """Whether the answers differ at all."""
    answers = Counter(call.content for call in calls if call.shape != AnswerShape.NONE)
    return bool(answers) and max(answers.values()) < _SAME_ANSWER * answers.total()


def without_answers(calls: Sequence[Call]) -> list[Call]:
    """The same calls as if none had been answered."""
    return [replace(call, shape=AnswerShape.NONE, content="", keys=()) for call in calls]


def _by_turn(calls: Sequence[Call], known: Sequence[Rule], seed: int) -> list[Part]:
    turns = [Turn(c.features.marks, c.action or c.shape.partition(":")[0], c.conversation) for c in calls]
    rules = kinds_of_turn(turns, known=known, seed=seed)
    if not rules:
        return [Part(calls=list(calls), faces=[])]
    parts = [Part(calls=[], faces=[], turn=rule) for rule in rules]
    for call in calls:
        if (kind := kind_of(rules, call.features.marks)) is not None:
            parts[kind].calls.append(call)
    return sorted((p for p in parts if p.calls), key=lambda part: (-len(part.calls), part.calls[0].id))


# --- what a request looks like from outside


def _faces(calls: Sequence[Call], use_answers: bool) -> list[Face]:
    keyed = components([c.features.keys for c in calls if c.features.structure in RECORDS])
    instructions = _instructions(calls)
    transcripts = _transcripts_apart(calls, use_answers)
    faces = []
    for call, instruction in zip(calls, instructions, strict=True):
        features = call.features
        if features.structure in RECORDS:
            component = keyed[features.keys[0]] if features.keys else ""
            faces.append(Face(instruction=instruction, record=str(features.structure), component=component))
        elif transcripts and features.structure is Structure.TRANSCRIPT:
            faces.append(Face(instruction=instruction, record=str(features.structure)))
        else:
            faces.append(Face(instruction=instruction))
    return faces


def _transcripts_apart(calls: Sequence[Call], use_answers: bool) -> bool:
    """Whether transcripts are another job than the texts beside them: both are frequent and, if answers count, they differ."""
    texts = [call for call in calls if call.features.structure not in RECORDS]
    inside = [call for call in texts if call.features.structure is Structure.TRANSCRIPT]
    outside = [call for call in texts if call.features.structure is not Structure.TRANSCRIPT]
    if min(len(inside), len(outside)) < max(MIN_PART, _MIN_TRANSCRIPTS * len(texts)):
        return False
    return not (use_answers and same_job(outputs_of(inside), outputs_of(outside)))


def _instructions(calls: Sequence[Call]) -> list[Template | None]:
    """For each call the frequent instruction around its input, if there is one."""
    found = [instructions_in(call.features) for call in calls]
    by_text: dict[str, list[Call]] = defaultdict(list)
    for texts, call in zip(found, calls, strict=True):
        for text in texts:
            by_text[text].append(call)
    if sum(len(inside) for inside in by_text.values()) < _MIN_INSTRUCTED * len(calls):
        return [None] * len(calls)
    ranked = sorted(by_text, key=lambda text: (-len(by_text[text]), text))[:500]
    families = find_families([Variant(text, outputs_of(by_text[text])) for text in ranked])
    least = max(MIN_PART, _MIN_INSTRUCTED * len(calls))
    frequent = [
        family.template
        for family in families
        if sum(len(by_text[ranked[member]]) for member in family.members) >= least
    ]
    return [next((t for t in frequent for text in texts if t.fits(text)), None) for texts in found]


# --- what the answers look like


def _cells(calls: Sequence[Call], *, least: float, seed: int) -> list[list[Call]]:
    """Calls of one face by the shape of their answers, as far as the requests tell those apart."""
    json_keys = components([call.keys for call in calls if call.shape == "json" and call.keys])
    by_shape: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        shape = f"json:{json_keys[call.keys[0]]}" if call.shape == "json" and call.keys else call.shape
        by_shape[shape].append(call)
    ranked = sorted(by_shape.values(), key=lambda cell: (-len(cell), cell[0].id))
    cells = [cell for cell in ranked[:_MAX_CELLS] if len(cell) >= least] or ranked[:1]
    rest = [call for cell in ranked[len(cells) :] for call in cell]
    if len(cells) > 1:
        cells = _told_apart(cells, seed)
    if len(cells) == 1:
        return [cells[0] + rest]
    return _with_rest(cells, rest, seed)


def _told_apart(cells: list[list[Call]], seed: int) -> list[list[Call]]:
    """Join cells, the least distinct pair first, until requests alone tell each pair apart."""
    sampled = [_sample(cell, seed) for cell in cells]
    told: dict[tuple[int, int], float] = {}
    alive = list(range(len(cells)))
    while len(alive) > 1:
        for n, a in enumerate(alive):
            for b in alive[n + 1 :]:
                if (a, b) not in told:
                    told[a, b] = _separation(sampled[a], sampled[b], seed)
        accuracy, a, b = min((told[a, b], a, b) for n, a in enumerate(alive) for b in alive[n + 1 :])
        if accuracy >= _TELLS_APART:
            break
        cells[a] = cells[a] + cells[b]
        sampled[a] = _sample(cells[a], seed)
        alive.remove(b)
        told = {pair: value for pair, value in told.items() if a not in pair and b not in pair}
    return [cells[n] for n in alive]


def _sample(calls: Sequence[Call], seed: int, size: int = _SAMPLE) -> list[set[str]]:
    chosen = Random(seed).sample(list(calls), size) if len(calls) > size else calls
    return [evidence_of(call.features) for call in chosen]


def _vectorised(sets: Sequence[set[str]]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        analyzer=_identity, binary=True, min_df=2, max_features=30_000, dtype="float32"
    )
    return vectorizer, vectorizer.fit_transform([sorted(s) for s in sets])


def _identity(tokens: list[str]) -> list[str]:
    return tokens


def _separation(left: Sequence[set[str]], right: Sequence[set[str]], seed: int) -> float:
    """Balanced accuracy of a linear classifier on held-out folds; a repeated input stands in one fold only."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    sets = [*left, *right]
    groups = [hash_of(s) for s in sets]
    truth = np.array([0] * len(left) + [1] * len(right))
    if min(len(set(groups[: len(left)])), len(set(groups[len(left) :]))) < _FOLDS:
        return 0.0
    _, matrix = _vectorised(sets)
    folds = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    right_of = np.zeros(2)
    for train, test in folds.split(matrix, truth, groups):
        if len(set(truth[train])) < 2:
            return 0.0
        model = LogisticRegression(C=3.0, max_iter=200, class_weight="balanced")
        predicted = model.fit(matrix[train], truth[train]).predict(matrix[test])
        for side in (0, 1):
            right_of[side] += ((predicted == side) & (truth[test] == side)).sum()
    return float((right_of / np.array([len(left), len(right)])).mean())


def hash_of(evidence: set[str]) -> str:
    """Equal for equal evidence."""
    return "\x1f".join(sorted(evidence))


def _with_rest(cells: list[list[Call]], rest: list[Call], seed: int) -> list[list[Call]]:
    """Calls with a rare shape of answer go where their requests say."""
    if not rest:
        return cells
    weights = _fitted(cells, seed)
    cells = [list(cell) for cell in cells]
    for call in rest:
        cells[_best(weights, call)].append(call)
    return cells


# --- what the words look like


def _by_density(
    calls: list[Call], face: Face, embedder: Embedder | None, *, seed: int, use_answers: bool
) -> list[Part]:
    """The populations among running texts, as far as the answers do not speak against them; else one part."""
    whole = [Part(calls=calls, faces=[face])]
    if face.record or len(calls) < MIN_TEXTS:
        return whole
    by_text: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_text[call.features.input].append(call)
    texts = sorted(by_text, key=digest)
    cores: dict[int, list[Call]] = defaultdict(list)
    for chosen, sides in populations(texts, seed=seed, embedder=embedder):
        for index, side in zip(chosen, sides, strict=True):
            cores[int(side)].append(by_text[texts[index]][0])
    if not cores:
        return whole
    parts = [Part(calls=[], faces=[face], core=cores[side]) for side in sorted(cores)]
    fitted = _fitted([part.core for part in parts], seed, by_frequency=False)
    for call in calls:
        parts[_best(fitted, call)].calls.append(call)
    if any(len(part.calls) < MIN_PART for part in parts):
        return whole
    if use_answers:
        outputs = [outputs_of(part.calls) for part in parts]
        if any(same_job(one, other) for n, one in enumerate(outputs) for other in outputs[n + 1 :]):
            return whole
    return parts


def _best(fitted: Sequence[tuple[dict[str, float], float]], call: Call) -> int:
    evidence = evidence_of(call.features)
    scores = [bias + sum(weights.get(token, 0.0) for token in evidence) for weights, bias in fitted]
    return scores.index(max(scores))


# --- parts of one job, and weights between the others


def _joined_by_answers(parts: list[Part]) -> list[Part]:
    """Parts that answer with the same labels are one job with several kinds of input."""
    labels = [_labels(part.calls) for part in parts]
    joined: list[Part] = []
    known: list[Counter[str]] = []
    for part, mine in zip(parts, labels, strict=True):
        for n, other in enumerate(known):
            if mine and other and overlap(mine, other) >= 0.5:
                faces = [face for face in part.faces if face not in joined[n].faces]
                joined[n] = replace(
                    joined[n], calls=joined[n].calls + part.calls, faces=joined[n].faces + faces
                )
                known[n] = other + mine
                break
        else:
            joined.append(part)
            known.append(mine)
    return joined


def _labels(calls: Sequence[Call]) -> Counter[str]:
    """Label answers with their counts; empty where labels are not what these calls are answered with."""
    outputs = outputs_of(calls)
    return outputs.labels if outputs.shape == "label" else Counter()


def _weigh(parts: list[Part], seed: int) -> None:
    """Give the parts that share a face the weights that tell them apart."""
    sharing = [
        part
        for part in parts
        if any(set(part.faces) & set(other.faces) for other in parts if other is not part)
    ]
    if len(sharing) < 2:
        return
    dense = any(part.core for part in sharing)
    fitted = _fitted([part.core or part.calls for part in sharing], seed, by_frequency=not dense)
    for part, (weights, bias) in zip(sharing, fitted, strict=True):
        part.weights, part.bias = weights, bias


def _fitted(
    cells: Sequence[Sequence[Call]], seed: int, *, by_frequency: bool = True
) -> list[tuple[dict[str, float], float]]:
    """A weight of each piece of evidence for each class, the largest 2,000; and the class's bias.

    Args:
        by_frequency: a frequent class is the more likely one; else all are alike, so that a rare one keeps its calls.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    samples = [_sample(cell, seed, _FIT_SAMPLE) for cell in cells]
    vectorizer, matrix = _vectorised([evidence for sample in samples for evidence in sample])
    truth = np.concatenate([np.full(len(sample), n) for n, sample in enumerate(samples)])
    model = LogisticRegression(C=3.0, max_iter=300, class_weight="balanced", random_state=seed)
    model.fit(matrix, truth)
    coefficients, biases = model.coef_, model.intercept_
    if len(samples) == 2:
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        biases = np.array([-biases[0], biases[0]]) / 2
    if by_frequency:
        biases = biases + np.log([len(cell) for cell in cells])
    names = vectorizer.get_feature_names_out()
    fitted = []
    for row, bias in zip(coefficients, biases, strict=True):
        largest = np.argsort(-np.abs(row), kind="stable")[:_MAX_WEIGHTS]
        fitted.append(
            ({str(names[i]): round(float(row[i]), 3) for i in largest if row[i]}, round(float(bias), 4))
        )
    return fitted
