"""What the tasks' calls are like, told in one pass over the log that keeps some 200 bytes of each call; and which of them are learnt from.

A task with more calls than `most` is sampled by whole conversations, drawn by lot, so that what is kept has the traffic's own
distribution and memory in training does not grow with the log. Lots depend on the seed and the conversation alone. Pure.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from shoal.agents.learning.answers import NO_ANSWER, answer_digest
from shoal.agents.learning.learning_log import LearningLog
from shoal.agents.learning.material import (
    Lesson,
    Material,
    is_later_turn,
    material_of,
    opening_of,
    read_lesson,
)
from shoal.agents.learning.records import find_record
from shoal.agents.learning.splits import Fingerprint
from shoal.agents.learning.volume import Volume, VolumeCount
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId

#: the same call under two ids, as a log has it that was written or imported twice
_TWICE = "recorded twice"
_SAMPLED = "beyond learning.max_calls_per_task"
_UNIT_BYTES, _CONTENT_BYTES = 16, 32
_RECORD_SHARE = 0.98
_RECORDS_LOOKED_AT = 300
_CALLING, _IS_RECORD, _BY_OPENING = 1, 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One task's calls, as far as that can be told without holding them.

    Attributes:
        ids: the calls that are learnt from, in the order of the log.
        calling: how many of them were answered by a function call.
        answers: of the others: how often each answer was given, by `answer_digest`.
        records: their prompts are records.
        fingerprint: as `splits.fingerprint` of their examples.
        left_out, tier, private: as `Material`'s.
        volume: of all the task's calls.
    """

    ids: Sequence[str] = ()
    calling: int = 0
    answers: Mapping[int, int] = field(default_factory=dict)
    records: bool = False
    fingerprint: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    tier: str = ""
    private: bool = False
    volume: Volume = field(default_factory=Volume)

    @property
    def calls(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSurvey:
    """All tasks of a log. `openings`: of conversations that name no id and go on, as `opening_of` gives them."""

    tasks: Mapping[TaskId, Survey]
    openings: Collection[bytes]

    def material(self, log: LearningLog, task_id: TaskId) -> Material:
        """Read a task's examples. Calls that were erased since the survey are missing."""
        survey = self.tasks[task_id]
        return material_of(
            log.pick(frozenset(survey.ids)),
            {name: place for place, name in enumerate(survey.ids)},
            openings=self.openings,
            left_out=survey.left_out,
            tier=survey.tier,
            private=survey.private,
        )


def survey_log(
    log: LearningLog,
    assignment: Mapping[TraceId, TaskId | None],
    task_of: Callable[[ChatRequest], TaskId | None],
    *,
    seed: int,
    most: int,
) -> LogSurvey:
    """Read the log once.

    Args:
        task_of: names the task of calls that are not learnt from, mostly those that a specialist answers already: their privacy
            counts.
        most: calls that are learnt from, in each task.

    Raises:
        KeyboardInterrupt: the run was stopped. Else as `LearningLog.every`.
    """
    surveyor = Surveyor()
    for trace, usable in log.every():
        if usable:
            surveyor.add(trace, assignment.get(trace.id))
        elif trace.privacy == "local-only":
            surveyor.add_private(task_of(trace.chat))
    return surveyor.finish(seed=seed, most=most)


class Surveyor:
    """Takes calls one by one, and keeps digests of them."""

    def __init__(self) -> None:
        self._tasks: dict[TaskId, _Rows] = {}
        self._openings: set[bytes] = set()
        self._recorded: set[bytes] = set()
        self._private: set[TaskId] = set()
        self._volumes = VolumeCount()

    def add(self, trace: Trace, task_id: TaskId | None) -> None:
        """A call that may be learnt from; `task_id` None where it is of no task."""
        self._volumes.add(trace, task_id)
        if task_id is None:
            return
        rows = self._tasks.get(task_id)
        if rows is None:
            rows = self._tasks[task_id] = _Rows()
        lesson = read_lesson(trace)
        opening = None if lesson.request.conversation_id is not None else opening_of(lesson.request)
        if opening is not None and is_later_turn(lesson.request):
            self._openings.add(opening)
        if trace.privacy == "local-only":
            self._private.add(task_id)
        rows.wishes[str(trace.tags.get("tier") or "")] += 1
        useless = lesson.useless
        if not useless and self._is_known(trace, lesson.request):
            useless = _TWICE
        if useless:
            rows.left_out[useless] += 1
        else:
            rows.add(trace, lesson, opening)

    def add_private(self, task_id: TaskId | None) -> None:
        """A `local-only` call that is not learnt from."""
        if task_id is not None:
            self._private.add(task_id)

    def finish(self, *, seed: int, most: int) -> LogSurvey:
        volumes = self._volumes.result()
        return LogSurvey(
            tasks={
                task_id: rows.survey(
                    openings=self._openings,
                    seed=seed,
                    most=most,
                    private=task_id in self._private,
                    volume=volumes[task_id],
                )
                for task_id, rows in self._tasks.items()
            },
            openings=self._openings,
        )

    def _is_known(self, trace: Trace, request: ChatRequest) -> bool:
        """Whether this very call was recorded before: the same completion of the same request at the same moment.

        Calls that merely say the same are the traffic's own and stay.
        """
        completion = trace.response.get("id")
        if not isinstance(completion, str) or not completion:
            return False
        digest = hashlib.blake2b(to_json(request.messages, fallback=dict), digest_size=16)
        digest.update(f"\0{completion}\0{trace.timestamp!r}".encode("utf-8", "surrogatepass"))
        key = digest.digest()
        known = key in self._recorded
        self._recorded.add(key)
        return known


class _Rows:
    """One task's usable calls, a column for each thing that is kept of them."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.wishes: Counter[str] = Counter()
        self._ids: list[str] = []
        #: what is drawn by lot: a conversation, or a call by itself
        self._units = bytearray()
        self._contents = bytearray()
        self._answers = array("Q")
        self._flags = bytearray()

    def add(self, trace: Trace, lesson: Lesson, opening: bytes | None) -> None:
        calls_functions = bool(lesson.answer and lesson.answer.tool_calls)
        flags = _CALLING if calls_functions else 0
        if not calls_functions and find_record(lesson.request.last_user_text) is not None:
            flags |= _IS_RECORD
        if opening is None:
            self._units += _digest(f"conversation {lesson.request.conversation_id}")
        else:
            flags |= _BY_OPENING
            self._units += opening
        self._ids.append(trace.id)
        self._contents += hashlib.sha256(lesson.content.encode("utf-8", "surrogatepass")).digest()
        self._answers.append(NO_ANSWER if calls_functions else answer_digest(lesson.content))
        self._flags.append(flags)

    def survey(
        self, *, openings: Collection[bytes], seed: int, most: int, private: bool, volume: Volume
    ) -> Survey:
        chosen = self._chosen(openings, seed, most)
        left_out = dict(self.left_out)
        if len(chosen) < len(self._ids):
            left_out[_SAMPLED] = len(self._ids) - len(chosen)
        own = [place for place in chosen if not self._flags[place] & _CALLING]
        looked_at = own[:: max(1, len(own) // _RECORDS_LOOKED_AT)]
        records = sum(bool(self._flags[place] & _IS_RECORD) for place in looked_at)
        return Survey(
            ids=tuple(self._ids[place] for place in chosen),
            calling=len(chosen) - len(own),
            answers=Counter(self._answers[place] for place in own),
            records=bool(looked_at) and records >= _RECORD_SHARE * len(looked_at),
            fingerprint=self._fingerprint(chosen),
            left_out=left_out,
            tier=_usual_tier(self.wishes),
            private=private,
            volume=volume,
        )

    def _chosen(self, openings: Collection[bytes], seed: int, most: int) -> Sequence[int]:
        """Places of the calls that are learnt from, ascending. The conversation that crosses the limit is cut."""
        if len(self._ids) <= most:
            return range(len(self._ids))
        units = _lots(seed, (self._unit(place, openings) for place in range(len(self._ids))))
        calls = _lots(seed, (name.encode("utf-8", "surrogatepass") for name in self._ids))
        kept = np.lexsort((calls, units))[:most]
        return [int(place) for place in np.sort(kept)]

    def _unit(self, place: int, openings: Collection[bytes]) -> bytes:
        unit = bytes(self._units[place * _UNIT_BYTES : (place + 1) * _UNIT_BYTES])
        if self._flags[place] & _BY_OPENING and unit not in openings:
            return _digest(f"call {self._ids[place]}")
        return unit

    def _fingerprint(self, chosen: Iterable[int]) -> str:
        fingerprint = Fingerprint()
        for place in sorted(chosen, key=self._ids.__getitem__):
            content = self._contents[place * _CONTENT_BYTES : (place + 1) * _CONTENT_BYTES]
            fingerprint.add(self._ids[place], content.hex())
        return fingerprint.hexdigest()


def _usual_tier(wishes: Counter[str]) -> str:
    """The tier that more than half of the calls wish for; empty where there is none."""
    tier, count = wishes.most_common(1)[0]
    return tier if 2 * count > wishes.total() else ""


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_UNIT_BYTES).digest()


def _lots(seed: int, names: Iterable[bytes]) -> NDArray[np.uint64]:
    # another draw than that of the split: what is sampled must not be what calibrates
    salt = f"sample\0{seed}\0".encode()
    raw = b"".join(hashlib.blake2b(salt + name, digest_size=8).digest() for name in names)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)
