"""Kinds of turn: an agent whose every call has the same prompt and tools still does recurring things at recurring stages.

A turn's marks are read off its request alone: after which tool's result, which functions were called before, what the user
just said and the agent said before that, whether names (`ABC123`) were given that no call has used yet. Where a log's
answers say what came next, a shallow decision tree over the marks finds the stages after which something else follows; its
leaves are conjunctions of marks, so that a call is recognised before it is answered. How many leaves there are is chosen by
cross-validation over conversations. A leaf is a kind of turn if it has calls enough for a specialist to be proved and one
thing clearly follows; all other turns stay together as one kind, because proof takes calls. Knows nothing of prompts or tasks; `marks_of` must be the same in learning and serving.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.traces.chat import ChatRequest, text_of

#: what must hold of a turn, and what must not: (mark, holds)
Rule = tuple[tuple[str, bool], ...]
#: the kind of all turns that are of no other kind
REST: Rule = (("none of the other kinds", True),)

#: a kind of turn has so many calls (a contract at 5% takes 59 right ones in calibration alone), and such a share of the prompt's
MIN_TURNS = 200
#: leaves of the tree may be smaller: what is left of them goes to the rest
_MIN_LEAF = 100
_MIN_SHARE = 0.06
_MAX_LEAVES = 8
#: one thing clearly follows: such a share of the turns, or a function in such a share
_FOLLOWS = 0.8
_FUNCTION_FOLLOWS = 0.4
#: turns with a history, below which there are no stages
_MIN_WITH_HISTORY = 0.3
_FOLDS = 5
_FITTED = 6000
_READ_WORD_CHARS = 800
_READ_CHARS = 4000
_SHORT_RESULT = 60
_SHORT_SAID = 40
#: an older split stays while it tells so much of what a new one tells
_STAYS = 0.8
#: what follows where no function does; see `shapes.AnswerShape`
_SHAPES = frozenset({"text", "json", "label", "none"})

_ADDRESS = re.compile(r"<[A-Z]+_\d{1,6}>|[\w.+-]{1,64}@[\w.-]+|\bhttps?://\S+")
_WORTH_READING = re.compile(r"@|://|<[A-Z]")
_NAME = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{5,40}\b|\b[A-Z]{6,12}\b")
_WORD = re.compile(r"(?<!\w)[^\W\d_]+(?!\w)|\?")
_EMPTY = frozenset({"", "[]", "{}", "null", "none"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One call as a turn: the marks of its request, what followed (a function's name or the shape of an answer), and which conversation it is of."""

    marks: frozenset[str]
    action: str
    conversation: str


def marks_of(request: ChatRequest) -> frozenset[str]:
    """What can be seen of the stage of a conversation. Reads some thousand characters; about 0.1 ms for a long history."""
    messages = [m for m in request.messages if m["role"] not in ("system", "developer")]
    if not messages:
        return frozenset()
    last = messages[-1]
    marks: set[str] = set()
    names: dict[str, str] = {}
    used: list[str] = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            names[str(call.get("id"))] = name = str(function.get("name"))
            used.append(str(function.get("arguments")))
            marks.add(f"called {name}")
    if not names:
        marks.add("nothing called")
    if len(messages) > 1:
        marks.add("history")
    arguments = " ".join(used)
    said = _plain(text_of(last))
    if last["role"] in ("tool", "function"):
        marks.add(f"after {last.get('name') or names.get(str(last.get('tool_call_id')), 'a tool')}")
        marks.update(_of_result(said))
    else:
        marks.add(f"after the {last['role']}")
        marks.update(f"says {word}" for word in _words(said))
        if len(said) < _SHORT_SAID:
            marks.add("says little")
    if any(name not in arguments for name in _NAME.findall(said)):
        marks.add("the last message has a new name")
    given = [name for m in messages if m["role"] == "user" for name in _NAME.findall(_plain(text_of(m)))]
    fresh = sum(name not in arguments for name in set(given))
    marks.add(
        "no name given" if not given else "a name given is unused" if fresh else "each name given is used"
    )
    before = next((m for m in reversed(messages[:-1]) if m["role"] == "assistant"), None)
    if before is not None:
        marks.update(f"had said {word}" for word in _words(_plain(text_of(before))))
    results = 0
    for message in reversed(messages):
        if message["role"] == "user":
            break
        results += message["role"] in ("tool", "function")
    marks.update(f"{least} results or more" for least in (2, 3, 5) if results >= least)
    spoke = sum(m["role"] == "user" for m in messages)
    marks.update(f"the user spoke {least} times or more" for least in (2, 3, 5) if spoke >= least)
    return frozenset(marks)


def _of_result(text: str) -> list[str]:
    stripped = text.strip()
    found = []
    if stripped.lower() in _EMPTY:
        found.append("an empty result")
    if len(stripped) < _SHORT_RESULT:
        found.append("a short result")
    if "error" in stripped[:_SHORT_RESULT].lower():
        found.append("an error")
    return found


def _plain(text: str) -> str:
    """Without addresses and pseudonyms: logged requests are scrubbed, live ones are not."""
    text = text[:_READ_CHARS]
    return _ADDRESS.sub(" ", text) if _WORTH_READING.search(text) else text


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text[:_READ_WORD_CHARS])}


def kind_of(rules: Sequence[Rule], marks: frozenset[str]) -> int | None:
    """The index of the rule that a turn meets; the rest where it meets no other, None where there is no rest."""
    rest = None
    for index, rule in enumerate(rules):
        if rule == REST:
            rest = index
        elif all((mark in marks) == wanted for mark, wanted in rule):
            return index
    return rest


def shown(rule: Rule) -> str:
    """A rule for people."""
    return "; ".join(mark if wanted else f"not: {mark}" for mark, wanted in rule)


# --- finding kinds


def kinds_of_turn(turns: Sequence[Turn], *, known: Sequence[Rule], seed: int) -> list[Rule]:
    """Rules, the rest among them, by which each turn is of one kind; empty where no stages show.

    Args:
        turns: in an order that is the same from run to run.
        known: the rules of an earlier split. They stay, all of them, while they say nearly as much of what follows as a
            new split does: specialists were trained on them.
    """
    with_history = sum("history" in turn.marks for turn in turns)
    if with_history < _MIN_WITH_HISTORY * len(turns) or len(turns) < 2 * MIN_TURNS:
        return []
    if len(turns) > _FITTED:
        turns = [turns[i * len(turns) // _FITTED] for i in range(_FITTED)]
    leaves = _tree(turns, max(_MIN_LEAF, int(_MIN_SHARE * len(turns))), seed)
    clear = [rule for rule, actions in _grouped(leaves, turns) if _follows(actions)]
    new = [*clear, REST] if clear else []
    old = list(known)
    if _divides(old, turns) and _told(old, turns) >= _STAYS * _told(new, turns):
        return old
    return new


def _follows(actions: Sequence[str]) -> bool:
    """Whether one thing clearly follows, and often enough to be proved."""
    counts = Counter(actions)
    action, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    needed = _FOLLOWS if action in _SHAPES else _FUNCTION_FOLLOWS
    return len(actions) >= MIN_TURNS and count >= needed * len(actions)


def _grouped(rules: Sequence[Rule], turns: Sequence[Turn]) -> list[tuple[Rule, list[str]]]:
    """Each rule with what followed the turns that meet it; rules that no turn meets are left out."""
    groups: dict[int, list[str]] = defaultdict(list)
    for turn in turns:
        if (kind := kind_of(rules, turn.marks)) is not None:
            groups[kind].append(turn.action)
    return [(rules[kind], groups[kind]) for kind in sorted(groups)]


def _divides(rules: Sequence[Rule], turns: Sequence[Turn]) -> bool:
    """Whether each turn meets one of several rules."""
    return len(rules) > 1 and all(kind_of(rules, turn.marks) is not None for turn in turns)


def _told(rules: Sequence[Rule], turns: Sequence[Turn]) -> float:
    """Nats per turn that the kind tells of what follows."""
    inside = sum(len(actions) * _entropy(actions) for _, actions in _grouped(rules, turns))
    return _entropy([t.action for t in turns]) - inside / len(turns) if rules else 0.0


def _entropy(actions: Sequence[str]) -> float:
    counts = Counter(actions)
    return -sum(n / len(actions) * math.log(n / len(actions)) for n in counts.values())


def _tree(turns: Sequence[Turn], least: int, seed: int) -> list[Rule]:
    import numpy as np
    from sklearn.model_selection import GroupKFold

    counts = Counter(mark for turn in turns for mark in turn.marks)
    rare = max(20, 0.03 * len(turns))
    marks = sorted(mark for mark, count in counts.items() if rare <= count <= len(turns) - rare)
    groups = [turn.conversation for turn in turns]
    if not marks or len(set(groups)) < _FOLDS:
        return []
    column = {mark: n for n, mark in enumerate(marks)}
    matrix = np.zeros((len(turns), len(marks)), dtype=np.float32)
    for row, turn in enumerate(turns):
        matrix[row, [column[mark] for mark in turn.marks if mark in column]] = 1.0
    actions, truth = np.unique([turn.action for turn in turns], return_inverse=True)
    folds = list(GroupKFold(_FOLDS).split(matrix, truth, groups))
    losses = {
        count: np.array(
            [_loss(matrix, truth, train, test, count, least, len(actions), seed) for train, test in folds]
        )
        for count in range(1, _MAX_LEAVES + 1)
    }
    best = min(losses, key=lambda count: float(losses[count].mean()))
    # the fewest kinds that are as good as the best, to within a standard error of the difference over folds
    for count in range(1, best + 1):
        difference = losses[count] - losses[best]
        if difference.mean() <= difference.std(ddof=1) / _FOLDS**0.5:
            break
    if count == 1:
        return []
    return _leaves(_fitted(matrix, truth, count, least, seed), marks)


def _fitted(matrix: Any, truth: Any, count: int, least: int, seed: int) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        criterion="entropy", max_leaf_nodes=max(2, count), min_samples_leaf=least, random_state=seed
    )
    return model.fit(matrix, truth)


def _loss(
    matrix: Any, truth: Any, train: Any, test: Any, count: int, least: int, classes: int, seed: int
) -> float:
    """Nats per held-out turn, with each leaf's frequencies smoothed."""
    import numpy as np

    if count == 1:
        leaf_train, leaf_test = np.zeros(len(train), int), np.zeros(len(test), int)
    else:
        model = _fitted(matrix[train], truth[train], count, max(1, least * len(train) // len(truth)), seed)
        leaf_train, leaf_test = model.apply(matrix[train]), model.apply(matrix[test])
    total = 0.0
    for leaf in set(leaf_test):
        counts = np.bincount(truth[train][leaf_train == leaf], minlength=classes) + 0.5
        logs = np.log(counts / counts.sum())
        total -= float(logs[truth[test][leaf_test == leaf]].sum())
    return total / len(test)


def _leaves(model: Any, marks: Sequence[str]) -> list[Rule]:
    tree = model.tree_
    rules: list[Rule] = []

    def down(node: int, path: Rule) -> None:
        if tree.children_left[node] < 0:
            rules.append(path)
            return
        mark = marks[tree.feature[node]]
        down(int(tree.children_left[node]), (*path, (mark, False)))
        down(int(tree.children_right[node]), (*path, (mark, True)))

    down(0, ())
    return sorted(rules)
