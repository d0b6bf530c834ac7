"""LoRA runs in this process, and the part of a run that every process of a crew does: find the base, load it, take the steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from peft import prepare_model_for_kbit_training

from shoal.agents.learning.base_files import (
    device,
    digest_of,
    has_bf16,
    load_model,
    locate,
    why_no_four_bit,
)
from shoal.agents.learning.bases import Base
from shoal.agents.learning.lora_checkpoints import Checkpoints, FolderCheckpoints
from shoal.agents.learning.lora_crew import Alone, Crew
from shoal.agents.learning.lora_job import (
    NOMINAL_CPU_FLOPS,
    NOMINAL_GPU_FLOPS,
    Hardware,
    LoraJob,
    Trained,
)
from shoal.agents.learning.lora_run import LoraRun
from shoal.agents.learning.speed import known_speeds, remember_speed, speed_of_this_machine
from shoal.agents.learning.training import TrainContext
from shoal.errors import DataError

#: below a training's checkpoints, where those of a LoRA run are
CHECKPOINTS = "lora"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcess:
    """Implements `LoraExecutor`: one worker, here. `speeds`: the file that keeps what was measured; nothing is measured where None."""

    speeds: Path | None = None

    def hardware(self) -> Hardware:
        if self.speeds is None:
            return this_hardware()
        key, flops = speed_of_this_machine(known_speeds(self.speeds))
        remember_speed(self.speeds, key, flops)
        return this_hardware(flops)

    def run(self, job: LoraJob, context: TrainContext) -> Trained:
        checkpoints = FolderCheckpoints(context.work / CHECKPOINTS)
        return carry_out(job, context, crew=Alone(), checkpoints=checkpoints).state().trained()


def this_hardware(flops: float | None = None) -> Hardware:
    """Of this process's machine, which is all its: so that a busy moment changes no decision."""
    gpu = device().type == "cuda"
    free = torch.cuda.get_device_properties(0).total_memory if gpu else psutil.virtual_memory().total
    nominal = NOMINAL_GPU_FLOPS if gpu else NOMINAL_CPU_FLOPS
    return Hardware(
        gpu=gpu,
        free_mb=float(free / _MIB),
        bf16=has_bf16(),
        no_four_bit=why_no_four_bit(),
        flops=nominal if flops is None else flops,
    )


def carry_out(job: LoraJob, context: TrainContext, *, crew: Crew, checkpoints: Checkpoints) -> LoraRun:
    """This process's part of a run, to its end. Raises as `LoraExecutor.run` does."""
    folder = files_of(job.base)
    before = _held_mb()
    if crew.rank == 0:
        context.progress(0.0, f"loading {job.base.model}")
    dtype = getattr(torch, job.dtype)
    model = load_model(folder, job.base.architecture, dtype, four_bit=job.four_bit)
    loaded_mb = max(0.0, _held_mb() - before)
    if job.four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    run = LoraRun(model, job, context, crew=crew, checkpoints=checkpoints)
    run.loaded_mb = loaded_mb
    run.go()
    return run


def files_of(base: Base) -> Path:
    """The folder of a job's base on this machine. Raises DataError where it is not there, or is not what the job is about."""
    folder, _ = locate(base.model, base.revision)
    if digest_of(folder) != base.sha256:
        raise DataError(
            f"Base {base.model}: its files in {folder} are not those that training began with (SHA-256 differs).",
            remedy="Every machine that trains must have the same; name a hub id, or a folder that all of them share.",
        )
    return folder


def _held_mb() -> float:
    if device().type == "cuda":
        return float(torch.cuda.memory_allocated() / _MIB)
    return float(psutil.Process().memory_info().rss / _MIB)
