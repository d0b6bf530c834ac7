"""One LoRA run as plain data: what is trained, by how many steps, on what kind of machine, and what came of it.

A job crosses processes and machines; who carries it out is a `LoraExecutor`: this process (`lora_executors.py`), or the workers of a Ray
cluster, which whoever is above hands in. Knows no Ray and computes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shoal.agents.learning.bases import Base, Fit
from shoal.agents.learning.training import TrainContext

#: floating-point operations that training does per second where nobody measured: a core in fp32, and one GPU
NOMINAL_CPU_FLOPS = 4e10
NOMINAL_GPU_FLOPS = 2e13
#: operations per weight and token: forwards, and backwards through frozen weights; once more forwards where activations are not kept
FLOPS_EACH = 4.0
_FLOPS_AGAIN = 2.0
#: no model is so small that more tokens than this go through it in a second
_MOST_TOKENS_PER_S = 8_000.0
_MOST_ON_GPU = 50
#: of the time given, what steps may take; the rest is loading and looking
STEP_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """How the low-rank weights are shaped and trained.

    Attributes:
        batch: pairs in a step, of all workers together.
        rate: the highest learning rate for a model 2,048 wide; narrower ones get more, in proportion, up to `most_rate`.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    batch: int = 16
    epochs: int = 4
    min_steps: int = 60
    rate: float = 2e-4
    most_rate: float = 1e-2

    def peak(self, hidden: int) -> float:
        return min(self.most_rate, self.rate * 2048 / hidden)


@dataclass(frozen=True, slots=True)
class Pair:
    """A call as tokens: prompt and answer, and where the answer begins."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A step budget: the same for the same data, time limit, settings and speed, whatever the clock says."""

    steps: int
    steps_per_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a run is carried out on.

    Attributes:
        workers: processes that share each step.
        gpu: each of them has a GPU of its own.
        free_mb: MiB that one worker may count on: all of its GPU's memory, or its share of its machine's.
        bf16: the device computes in bf16 by itself.
        no_four_bit: why weights cannot be held in 4 bits; empty where they can.
        flops: operations per second of one worker in training; see `speed.py`.
    """

    workers: int = 1
    gpu: bool = False
    free_mb: float
    bf16: bool = False
    no_four_bit: str = "there is no CUDA GPU"
    flops: float = NOMINAL_CPU_FLOPS

    def to_dict(self) -> dict[str, Any]:
        """For a run's manifest."""
        return {"workers": self.workers, "gpu": self.gpu, "bf16": self.bf16, "flops": self.flops}


def plan_steps(
    pairs: Sequence[Pair],
    seconds: float,
    parameters: int,
    settings: LoraSettings,
    hardware: Hardware,
    *,
    twice: bool,
) -> Plan:
    """As many steps as `seconds` allow at the speed known, at most `epochs` passes or `min_steps`. `twice`: activations are not kept."""
    each = parameters * (FLOPS_EACH + (_FLOPS_AGAIN if twice else 0.0))
    most = _MOST_TOKENS_PER_S * (_MOST_ON_GPU if hardware.gpu else 1)
    speed = hardware.workers * min(most, hardware.flops / each)
    mean = sum(len(p.ids) for p in pairs) / len(pairs)
    per_epoch = math.ceil(len(pairs) / settings.batch)
    affordable = int(seconds * STEP_SHARE * speed / (settings.batch * mean))
    wanted = max(settings.min_steps, settings.epochs * per_epoch)
    return Plan(max(1, min(affordable, wanted)), per_epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraJob:
    """One run. Whoever carries it out finds the base's files by its name, and checks them by its SHA-256.

    Attributes:
        dtype: torch's name of the precision of the base's weights.
        four_bit: hold them in 4 bits instead (QLoRA, arXiv 2305.14314).
        pairs, watched: what is learnt from, and what tells the best weights and when to stop.
        seconds: the clock cuts a run that takes much longer.
        pad: the token that fills up rows.
        private: some of the calls are `local-only`: never on a cloud node.
    """

    base: Base
    dtype: str
    four_bit: bool
    pairs: tuple[Pair, ...]
    watched: tuple[Pair, ...]
    plan: Plan
    fit: Fit
    settings: LoraSettings
    seed: int
    seconds: float
    pad: int
    private: bool = False

    @property
    def mark(self) -> str:
        """The same for the same run: a checkpoint of another is not gone on from."""
        base = replace(self.base, model="", revision="")
        facts = (base, self.dtype, self.four_bit, self.plan, self.fit, self.settings, self.seed, self.pad)
        digest = hashlib.sha256(repr(facts).encode())
        for pair in self.pairs:
            digest.update(repr(pair).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a run.

    Attributes:
        weights: the best low-rank weights, tensors under PEFT's names.
        adapter: PEFT's configuration of them.
        cut: the clock ended it before its plan.
        best_loss: per token of `watched`.
        loaded_mb: what loading the base took, measured; 0 where nobody could.
    """

    weights: Mapping[str, Any]
    adapter: Any
    step: int
    cut: bool
    stopped_early: bool
    best_loss: float
    loaded_mb: float = 0.0


class LoraExecutor(Protocol):
    """Carries LoRA runs out."""

    def hardware(self) -> Hardware:
        """What runs would be carried out on. Raises DataError where that is not to be had."""
        ...

    def run(self, job: LoraJob, context: TrainContext) -> Trained:
        """Carry a run out, or go on with it where it was killed: checkpoints are kept for `context.work`.

        Raises:
            DataError: it cannot be carried out; the message says why.
            KeyboardInterrupt: `context.stopped`; what was done is kept.
        """
        ...
