"""What the registry remembers: tasks and specialist versions. Plain frozen records; knows nothing of databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

TaskId = NewType("TaskId", str)


class OutputKind(StrEnum):
    LABEL = "label"
    JSON = "json"
    TOOL_CALL = "tool_call"
    TEXT = "text"


class VersionState(StrEnum):
    """Where a version stands; `lifecycle.py` says which way it may go.

    `TRAINING`: a run makes it; it has no folder yet and is no `Version`. `REJECTED`: its gate said no; it is kept as evidence
    and never served.
    """

    TRAINING = "training"
    REJECTED = "rejected"
    SHADOW = "shadow"
    CANARY = "canary"
    SERVING = "serving"
    PAUSED = "paused"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A cluster of calls that are the same job.

    Attributes:
        id: stable across relearning.
        name: a slug, unique in the site; the owner may change it.
        match: how a request is recognised as this task's; see `agents/tasks/matcher.py`.
        calls: how many traces were in it when it was last found.
        reason: why it stays with the generalist, or what its newest version waits for.
    """

    id: TaskId
    name: str
    output_kind: OutputKind
    calls: int
    description: str = ""
    match: Mapping[str, Any] = field(default_factory=dict)
    excluded: bool = False
    reason: str = ""
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One trained specialist for one task. Its folder never changes; only `state`, `reason` and `served_at` do.

    Attributes:
        number: 1, 2, ... within its task.
        kind: name of the engine that loads it: `classifier`, `record_classifier`, `fields`, `micro_lm` or `lora`.
        folder: path of the model folder, relative to the home's models folder.
        sha256: digest of the folder's card, which itself lists the digest of each file.
        threshold: an answer with less confidence than this goes to the generalist; above 1 means never answer.
        alpha, delta: the contract that the threshold was set for.
        evidence: figures of the gate and the calibration.
        needs: resources for serving: `cpus`, `gpus` (fraction), `memory_mb`, `tier` ("" for any) with `why_tier`, and `private` where
            some of its task's calls are `local-only`.
        served_at: when it last came to serve; None for never. Only such a version is good to go back to.
    """

    task_id: TaskId
    number: int
    kind: str
    state: VersionState
    folder: str
    sha256: str
    threshold: float
    alpha: float
    delta: float
    evidence: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    created_at: float = 0.0
    served_at: float | None = None

    @property
    def key(self) -> str:
        """`<task id>@<number>`: names the version everywhere inside the site."""
        return f"{self.task_id}@{self.number}"
