"""One process of a crew that trains a job: `python lora_member.py JOB.json RANK SIZE STORE OUT`. JOB has the base's folder and the steps."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch

from shoal.agents.learning.base_files import digest_of, read_base
from shoal.agents.learning.bases import Fit
from shoal.agents.learning.lora_checkpoints import FolderCheckpoints
from shoal.agents.learning.lora_crew import Alone, Crew, Distributed
from shoal.agents.learning.lora_executors import carry_out
from shoal.agents.learning.lora_job import LoraJob, LoraSettings, Pair, Plan
from shoal.agents.learning.training import TrainContext


def job_of(base_folder: str, steps: int) -> LoraJob:
    """33 pairs of uneven lengths, so that the last batch of an epoch is one pair, which two cannot share; two rows at once."""
    rng = random.Random(5)
    base, folder = read_base(base_folder, allowed=("apache-2.0",))
    pairs = tuple(Pair(tuple(rng.randrange(3, 250) for _ in range(rng.randint(6, 20))), 4) for _ in range(33))
    return LoraJob(
        base=replace(base, sha256=digest_of(folder)),
        dtype="float32",
        four_bit=False,
        pairs=pairs,
        watched=pairs[:5],
        plan=Plan(steps, 3),
        fit=Fit(2, False),
        settings=LoraSettings(dropout=0.0),
        seed=1,
        seconds=600.0,
        pad=0,
    )


def main(job_file: str, rank: int, size: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    said = json.loads(Path(job_file).read_text(encoding="utf-8"))
    crew: Crew = Alone()
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size
        )
        crew = Distributed(torch.device("cpu"))
    # each has a clock of its own; the first one's counts
    context = TrainContext(seed=1, seconds=600.0, work=Path(out), monotonic=lambda: 1e6 * rank)
    run = carry_out(
        job_of(said["base"], said["steps"]), context, crew=crew, checkpoints=FolderCheckpoints(Path(out))
    )
    print(json.dumps({"step": run.step, "losses": run.losses, "cut": run.cut}))
    if size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
