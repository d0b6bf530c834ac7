"""What a LoRA run leaves behind on its way, so that a kill costs little: safetensors and JSON, put in place whole.

Owns the files of a checkpoint and the folder that holds them; knows no model and no loop.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from shoal.agents.learning.lora_job import Trained

_STATE = "state.json"
_NOW, _BEST, _MOMENTS = "now.safetensors", "best.safetensors", "moments.safetensors"
_PREFIX = "step-"

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run between two steps.

    Attributes:
        mark: of the run; see `LoraJob.mark`.
        losses: at each look at `watched`.
        now, best: low-rank weights under PEFT's names; `best` is empty before the first look.
        moments: of the optimiser, `<number>.<kind>`.
        adapter: PEFT's configuration.
        cut, stopped_early: the clock, or `watched`, ended it. finished: no step is left.
        loaded_mb: what loading the base took.
    """

    mark: str
    step: int
    losses: tuple[float, ...]
    now: Weights
    best: Weights
    moments: Weights
    adapter: Any
    cut: bool = False
    stopped_early: bool = False
    finished: bool = False
    loaded_mb: float = 0.0

    @property
    def best_loss(self) -> float:
        return min(self.losses, default=math.inf)

    def trained(self) -> Trained:
        """What came of the run so far."""
        return Trained(
            weights=self.best,
            adapter=self.adapter,
            step=self.step,
            cut=self.cut,
            stopped_early=self.stopped_early,
            best_loss=self.best_loss,
            loaded_mb=self.loaded_mb,
        )


def write_state(folder: Path, state: RunState) -> None:
    """Write a checkpoint's files into an empty folder."""
    save_file(dict(state.now), folder / _NOW)
    if state.best:
        save_file(dict(state.best), folder / _BEST)
    save_file(dict(state.moments), folder / _MOMENTS)
    state.adapter.save_pretrained(str(folder))
    said = {
        "mark": state.mark,
        "step": state.step,
        "losses": list(state.losses),
        "cut": state.cut,
        "stopped_early": state.stopped_early,
        "finished": state.finished,
        "loaded_mb": state.loaded_mb,
    }
    (folder / _STATE).write_text(json.dumps(said), encoding="utf-8")


def read_state(folder: Path, mark: str) -> RunState | None:
    """A checkpoint; None where it is another run's, or not whole."""
    try:
        said = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if said["mark"] != mark:
            return None
        losses = tuple(float(loss) for loss in said["losses"])
        return RunState(
            mark=mark,
            step=int(said["step"]),
            losses=losses,
            now=load_file(folder / _NOW),
            best=load_file(folder / _BEST) if losses else {},
            moments=load_file(folder / _MOMENTS),
            adapter=LoraConfig.from_pretrained(str(folder)),
            cut=bool(said["cut"]),
            stopped_early=bool(said["stopped_early"]),
            finished=bool(said["finished"]),
            loaded_mb=float(said["loaded_mb"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Checkpoints(Protocol):
    """Where a run's checkpoints are kept."""

    def found(self) -> Iterator[Path]:
        """The folders of those that there are, the newest first. Each may be read until the next is asked for."""
        ...

    def put(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint in place of the last one: the old one or the new one is there whole, whenever a kill comes."""
        ...


def newest(checkpoints: Checkpoints, mark: str) -> RunState | None:
    """The newest whole checkpoint of a run."""
    return next(
        (s for s in (read_state(folder, mark) for folder in checkpoints.found()) if s is not None), None
    )


class FolderCheckpoints:
    """In a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def found(self) -> Iterator[Path]:
        yield from sorted(
            self._folder.glob(f"{_PREFIX}*"), key=lambda p: int(p.name[len(_PREFIX) :]), reverse=True
        )

    def put(self, step: int, write: Callable[[Path], None]) -> None:
        place, fresh = self._folder / f"{_PREFIX}{step}", self._folder / "half"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write(fresh)
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        for old in self._folder.glob(f"{_PREFIX}*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
