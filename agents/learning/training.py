"""What every way of training a specialist shares: its examples, its budget, its report. Knows no kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shoal.agents.ports import Embedder
from shoal.agents.traces.chat import ChatRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One logged call as a training pair: the request, and what the generalist answered.

    `content` is the text; where functions were called, their canonical form, and `tool_calls` are the calls themselves.
    `timestamp`: seconds since 1970; 0 where a log does not say.
    """

    id: str
    request: ChatRequest
    content: str
    #: calls of one group (a conversation) never stand on both sides of a split
    group: str
    tool_calls: Sequence[Mapping[str, Any]] = ()
    timestamp: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """How a training run may behave.

    Attributes:
        seed: the same seed, examples and step budget give the same weights on the same machine.
        seconds: the share of the time limit that this run may take. A trainer turns it into a step budget by a
            nominal speed, not by the clock; the clock only cuts a run that is far slower than nominal.
        work: folder for checkpoints; a run that finds one of its own there goes on from it.
        progress: called with (fraction in [0, 1], what is being done).
        stopped: asked between steps; where it says true the trainer saves a checkpoint and raises KeyboardInterrupt.
        monotonic: seconds on a clock that never goes back.
        embedder: what a kind that reads embeddings reads; None where n-grams are all there is.
        settings: what an earlier run of the same kind chose (`TrainReport.settings`); nothing is then chosen anew.
    """

    seed: int
    seconds: float
    work: Path
    monotonic: Callable[[], float]
    embedder: Embedder | None = None
    settings: Mapping[str, Any] | None = None
    progress: Callable[[float, str], None] = lambda fraction, text: None
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a run did.

    Attributes:
        cut_by_clock: it ended before its step budget, so a rerun may differ.
        settings: what it chose by held-out calls. Where given, the same kind can be trained with it once more, on those calls too.
    """

    kind: str
    steps: int
    cut_by_clock: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None


class Trainer(Protocol):
    """Train on `train`, pick settings and stop early on `choose`, and write a model folder (not yet sealed).

    Raises DataError where the examples cannot be learnt by this kind (the message is what `shoal tasks ls` shows).
    """

    def __call__(
        self, train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport: ...
