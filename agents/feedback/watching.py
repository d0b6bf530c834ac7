"""What comes in for each version that answers, and what users say of its answers. A pure state machine beside the roll-out.

`handle(event) -> [commands]`. From gateways it hears how sure versions were and how many answers they gave, in batches and without a text;
from feedback which answers were contradicted. It watches inputs for drift (`agents/contract/drift.py`), which alone takes nothing
back, and weighs contradictions against all answers given (`sequential.feedback_e_value`) for the roll-out's test.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from shoal.agents.contract.drift import LEVEL, InputWatch, calibration_of
from shoal.agents.contract.sequential import Block, feedback_e_value
from shoal.agents.registry.records import TaskId, Version, VersionState

#: a stretch of time ends when it is so old and has so many answers
_BLOCK_S: Final = 6 * 3600.0
_BLOCK_ANSWERS: Final = 200
_ASKED: Final = (VersionState.CANARY, VersionState.SERVING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """All that is remembered of one version's traffic.

    Attributes:
        inputs: the watch over its confidences.
        blocks: stretches of time, oldest first: when each began (seconds since the epoch), and how many answers were given in it.
    """

    inputs: InputWatch = field(default_factory=InputWatch)
    blocks: tuple[tuple[float, int], ...] = ()

    @property
    def given(self) -> int:
        return sum(given for _, given in self.blocks)

    def with_answers(self, given: int, *, since: float, at: float) -> Watch:
        blocks = list(self.blocks) or [(since, 0)]
        began, count = blocks[-1]
        blocks[-1] = (began, count + given)
        if at - began >= _BLOCK_S and count + given >= _BLOCK_ANSWERS:
            blocks.append((at, 0))
        return replace(self, blocks=tuple(blocks))

    def against(self, contradicted: Sequence[float]) -> list[Block]:
        """The blocks with the contradicted answers in them; older ones than the first block are not this version's of today."""
        starts = [began for began, _ in self.blocks]
        counts = [0] * len(starts)
        for answered_at in contradicted:
            place = bisect.bisect_right(starts, answered_at) - 1
            if place >= 0:
                counts[place] += 1
        return [Block(given, count) for (_, given), count in zip(self.blocks, counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        return {"inputs": self.inputs.to_dict(), "blocks": [list(block) for block in self.blocks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Watch:
        """Reads `to_dict`'s; a new one from None."""
        if not data:
            return cls()
        return cls(
            inputs=InputWatch.from_dict(data["inputs"]),
            blocks=tuple((float(began), int(given)) for began, given in data["blocks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What users said of a version's answers: how many were given, how many of them contradicted, and what that weighs."""

    given: int = 0
    contradicted: int = 0
    e_value: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchesRead:
    """The registry was read: all versions, their watches and, of each, when the contradicted answers were given."""

    versions: Sequence[Version]
    watches: Mapping[str, Watch] = field(default_factory=dict)
    contradicted: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsSeen:
    """A version was asked; see `InputsSeen` in `serve/ports.py` for the fields."""

    version_key: str
    bins: tuple[int, ...]
    given: int
    key: str
    since: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContradictionsRead:
    """When those answers of a version were given that are contradicted by now."""

    version_key: str
    answered_at: tuple[float, ...]


Event: TypeAlias = WatchesRead | InputsSeen | ContradictionsRead


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepWatch:
    """Make a watch durable as it now stands."""

    version_key: str
    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDrift:
    """A version's inputs have drifted: said when it is seen, and again when it is read back. Only the former is news for its history."""

    version_key: str
    task_id: TaskId
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighSaid:
    """What users said of a version weighs something else now."""

    version_key: str
    said: Said


Command: TypeAlias = KeepWatch | ReportDrift | WeighSaid


class Watching:
    """The watches of all versions that are asked, never behind the durable ones."""

    def __init__(self) -> None:
        self._versions: dict[str, Version] = {}
        self._watches: dict[str, Watch] = {}
        self._contradicted: dict[str, Sequence[float]] = {}

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, WatchesRead):
            return self._read(event)
        version = self._versions.get(event.version_key)
        if version is None or version.state not in _ASKED:
            return []  # it was taken back meanwhile
        if isinstance(event, ContradictionsRead):
            self._contradicted[version.key] = event.answered_at
            return [self._weigh(version)]
        return self._see(version, event)

    def watch(self, key: str) -> Watch:
        return self._watches.get(key, Watch())

    def _read(self, event: WatchesRead) -> list[Command]:
        rested = {key for key, v in self._versions.items() if v.state not in _ASKED}
        self._versions = {v.key: v for v in event.versions}
        self._contradicted = dict(event.contradicted)
        kept = {key: w for key, w in self._watches.items() if key in self._versions and key not in rested}
        self._watches = {**event.watches, **{k: w for k, w in kept.items() if w.given or w.inputs.count}}
        commands: list[Command] = []
        for key, watch in self._watches.items():
            version = self._versions.get(key)
            if version is None or version.state not in _ASKED:
                continue
            commands.append(self._weigh(version))
            if watch.inputs.drifted_at is not None:
                commands.append(_drift(version, watch))
        return commands

    def _see(self, version: Version, event: InputsSeen) -> list[Command]:
        before = self.watch(version.key)
        after = before.with_answers(event.given, since=event.since, at=event.at)
        calibration = calibration_of(version.evidence)
        if calibration is not None:
            inputs = before.inputs.after(calibration, event.bins, key=event.key, at=event.at)
            after = replace(after, inputs=inputs)
        self._watches[version.key] = after
        commands: list[Command] = [KeepWatch(version_key=version.key, watch=after)]
        if after.inputs.drifted_at is not None and before.inputs.drifted_at is None:
            commands.append(_drift(version, after))
        return [*commands, self._weigh(version)]

    def _weigh(self, version: Version) -> WeighSaid:
        blocks = self.watch(version.key).against(self._contradicted.get(version.key, ()))
        said = Said(
            given=sum(block.given for block in blocks),
            contradicted=sum(block.contradicted for block in blocks),
            e_value=feedback_e_value(blocks, version.alpha),
        )
        return WeighSaid(version_key=version.key, said=said)


def _drift(version: Version, watch: Watch) -> ReportDrift:
    at = watch.inputs.drifted_at or 0.0
    calibration = calibration_of(version.evidence) or []
    distance = watch.inputs.distance(calibration) if calibration else 0.0
    return ReportDrift(
        version_key=version.key,
        task_id=version.task_id,
        reason=f"inputs drifted: over {watch.inputs.count:,} calls its confidences are not those of its calibration "
        f"(distance {distance:.2f}, level {LEVEL:g})",
        at=at,
    )
