"""The rungs that pretrained bases add to the ladder of candidates: one for each base that may be used, the cheapest first.

Knows which kinds there are; reads a base's files only where the owner lists bases, and loads none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from shoal.agents.learning.bases import Base, FourBit, NodeRoom, cheapest_first
from shoal.agents.learning.candidates import LORA, Prospect, Trainers
from shoal.agents.learning.lora_job import LoraExecutor
from shoal.agents.learning.survey import Survey
from shoal.agents.learning.training import Trainer
from shoal.agents.registry.records import OutputKind
from shoal.config import Config
from shoal.errors import DataError
from shoal.nodes.identity import HEAD_NAME

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """What of `learning.bases` may be used.

    Attributes:
        refused: base -> why not.
        nodes: where specialists could run.
        executor: who trains; None where no base may be used.
        hardware: what it trains on, for the run's manifest.
    """

    bases: tuple[tuple[Base, Path], ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[NodeRoom, ...] = ()
    merge: bool = False
    four_bit: FourBit = "auto"
    executor: LoraExecutor | None = None
    hardware: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def survey(
        cls,
        config: Config,
        nodes: Sequence[NodeRoom] | None = None,
        *,
        executor: LoraExecutor | None = None,
        speeds: Path | None = None,
    ) -> Rungs:
        """Look at each base that the owner lists, and at what they would be trained on. Raises nothing: a base that may not be used is
        refused with the reason, and the ladder goes without it.

        Args:
            nodes: this machine where None.
            executor: who trains; this process where None, which then measures its speed once and keeps it in `speeds`.
        """
        listed = config.learning.bases
        if not listed:
            return cls()
        found: dict[str, tuple[Base, Path]] = {}
        refused: dict[str, str] = {}
        try:
            import peft  # noqa: F401

            from shoal.agents.learning.base_files import read_base
            from shoal.agents.learning.lora_executors import InProcess
        except ImportError as error:
            why = f"LoRA needs packages that are not installed ({error}). pip install 'shoal[bases]'."
            return cls(refused={entry.model: why for entry in listed})
        for entry in listed:
            try:
                base, folder = read_base(
                    entry.model,
                    revision=entry.revision or "",
                    declared=entry.licence or "",
                    allowed=config.learning.licences,
                )
                found[base.model] = (base, folder)
            except DataError as error:
                refused[entry.model] = str(error)
                log.warning("%s", error)
        hardware: Mapping[str, Any] = {}
        executor = executor or InProcess(speeds=speeds)
        if found:
            try:
                hardware = executor.hardware().to_dict()
            except DataError as error:
                log.warning("%s", error)
                return cls(refused={**refused, **{model: str(error) for model in found}})
        order = cheapest_first([base for base, _ in found.values()])
        return cls(
            bases=tuple(found[base.model] for base in order),
            refused=refused,
            nodes=tuple(this_machine(config) if nodes is None else nodes),
            merge=config.learning.merge,
            four_bit=config.learning.four_bit,
            executor=executor,
            hardware=hardware,
        )

    def extend(self, prospect: Prospect, kind: OutputKind, survey: Survey, *, min_calls: int) -> Prospect:
        """The prospect with these rungs after the cheaper ones.

        Short answers that are no closed set, which no cheaper kind gives, are tried by these alone.
        """
        names = tuple(f"{LORA}@{place}" for place in range(len(self.bases)))
        if prospect.kinds:
            return replace(prospect, kinds=(*prospect.kinds, *names))
        open_labels = kind == OutputKind.LABEL and survey.calls >= min_calls and not survey.calling
        return replace(prospect, kinds=names, reason="") if names and open_labels else prospect

    def trainers(self, others: Trainers, survey: Survey) -> Trainers:
        """The trainers of all kinds, for a task with these calls."""

        def trainer_of(kind: str) -> Trainer:
            if not kind.startswith(f"{LORA}@"):
                return others(kind)
            from shoal.agents.learning.lora import Rung, train_lora
            from shoal.agents.learning.lora_executors import InProcess

            base, folder = self.bases[int(kind.partition("@")[2])]
            if self.executor is None:
                raise ValueError("Rungs that were not surveyed have nobody who trains.")
            # calls that are `local-only`, and what is made of them, stay on this machine
            executor = InProcess() if survey.private else self.executor
            rung = Rung(
                base=base,
                folder=folder,
                nodes=self.nodes,
                tier=survey.tier,
                private=survey.private,
                merge=self.merge,
                four_bit=self.four_bit,
                executor=executor,
            )
            return partial(train_lora, rung=rung)

        return trainer_of

    def identity(self) -> list[Any]:
        """What versions depend on; empty without bases."""
        return (
            [[b.model, b.revision, b.parameters] for b, _ in self.bases] + [self.merge, self.four_bit]
            if self.bases
            else []
        )

    def to_dict(self) -> dict[str, Any]:
        """For a run's manifest."""
        return {
            "usable": [base.to_dict() for base, _ in self.bases],
            "refused": dict(self.refused),
            "hardware": dict(self.hardware),
        }


def this_machine(config: Config) -> list[NodeRoom]:
    """The node that has the data folder: its whole memory, and of its largest GPU the share that a replica asks for."""
    from shoal.nodes.telemetry import read_gpus, read_host

    largest = max((gpu.memory_total_mb for gpu in read_gpus().devices), default=0)
    share = min(1.0, config.placement.gpus_per_replica)
    return [
        NodeRoom(
            name=HEAD_NAME,
            tier=config.placement.tier or "local",
            memory_mb=float(read_host().memory_total_mb),
            gpu_mb=largest * share,
        )
    ]
