"""Carries learning runs out, each in a process of its own that yields to everything else. Implements the feedback actor's `Learner`.

Owns the process's environment and where it speaks; what it does is in `learn_job.py`. The process outlives whoever started it, so what it
says goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from shoal.agents.feedback.learning_runs import LearningRun, process_of
from shoal.config import Config
from shoal.home import Home

#: one core is given to learning, so more threads would only get in each other's way; one that waits must not spin
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
}
#: the end of what a run said is all that is looked at
_TAIL_BYTES = 4096


class ProcessLearner:
    """Starts `python -m shoal.serve.learn_job`."""

    def __init__(self, home: Home, config: Config) -> None:
        self._home = home
        self._config = config
        self._folder = home.work / "runs"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run: LearningRun) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self._folder.glob("*.jsonl"):
            if old.stem != run.id:
                old.unlink(missing_ok=True)
        job = {
            "run": run.id,
            "home": str(self._home.root),
            "config": self._config.model_dump(mode="json"),
        }
        self._home.logs.mkdir(mode=0o700, exist_ok=True)
        with (
            (self._folder / f"{run.id}.jsonl").open("ab") as said,
            (self._home.logs / "learning.log").open("ab") as errors,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "shoal.serve.learn_job"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=errors,
                # with the site's mark, so that `shoal down` ends it
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        self._started[run.id] = process
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(json.dumps(job).encode())

    def is_starting(self, run_id: str) -> bool:
        process = self._started.get(run_id)
        if process is None:
            return False
        if process.poll() is None:
            return True
        del self._started[run_id]
        return False

    def stop(self, run: LearningRun) -> None:
        process = process_of(run)
        if process is not None:
            process.send_signal(signal.SIGTERM)
        elif self.is_starting(run.id):
            self._started[run.id].terminate()

    def progress(self, run_id: str) -> Mapping[str, Any] | None:
        try:
            with (self._folder / f"{run_id}.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                return {"fraction": float(said["fraction"]), "text": str(said["text"])}
        return None


def make_learner(home: Home, config: Config) -> ProcessLearner:
    """In the actor's process."""
    return ProcessLearner(home, config)
