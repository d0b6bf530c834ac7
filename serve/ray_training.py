"""LoRA runs on the workers of a Ray cluster, by Ray Train. Implements `LoraExecutor`; decides nothing about what is trained.

The learning process stays the driver: it hands a job over, follows how far it is, and takes the result. Its death ends the workers; the
next run goes on from the last checkpoint, and so do workers that Ray starts again. Every file is safetensors or JSON.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from shoal.agents.learning.lora_checkpoints import FolderCheckpoints, newest, read_state
from shoal.agents.learning.lora_crew import Distributed
from shoal.agents.learning.lora_executors import CHECKPOINTS, carry_out, files_of, this_hardware
from shoal.agents.learning.lora_job import Hardware, LoraExecutor, LoraJob, Trained
from shoal.agents.learning.speed import known_speeds, remember_speed, speed_of_this_machine
from shoal.agents.learning.training import TrainContext
from shoal.agents.routing.router_actor import NAMESPACE
from shoal.errors import DataError, ShoalError
from shoal.nodes.identity import TIER_LABEL
from shoal.serve.priority import lowest_priority
from shoal.serve.training import Scale, scale_of

log = logging.getLogger("shoal.learning")

#: how often a run is started again after a worker died
_MOST_FAILURES = 3
#: and where the cluster had no room for its workers; Ray Train waits a minute each time
_MOST_STARTS = 1
_LOOK_S = 0.5
_PROBE_DEADLINE_S = 120
#: calls that are `local-only` never go to a node of another tier, nor to one that has none
_PRIVATE = {TIER_LABEL: "in(edge,local)"}


@contextlib.contextmanager
def connected(address: str, workers: int, storage_path: str, speeds: Path) -> Iterator[LoraExecutor | None]:
    """Connect to the cluster, and decide how it is used; None where the learning process trains alone.

    Raises:
        DataError: no Ray answers at `address`.
    """
    # Ray would end this process at once with SIGTERM; learning ends where it is safe
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DataError(
            f"Training on the cluster: no Ray answers at {address}: {error}.",
            remedy="See `shoal status`, or leave `learning.workers` at 1.",
        ) from error
    if main:
        signal.signal(signal.SIGTERM, handler)
    try:
        gpus = int(ray.available_resources().get("GPU", 0.0))
        scale = scale_of(workers, gpu_here=torch.cuda.is_available(), gpus_elsewhere=gpus)
        yield None if scale is None else RayExecutor(scale, storage_path, speeds)
    finally:
        ray.shutdown()


class RayExecutor:
    """Implements `LoraExecutor` in a process that is connected to the cluster.

    Args:
        storage_path: a folder or URL that all nodes reach; empty for a folder beside the run's other work.
        speeds: the file that keeps what was measured of nodes.
    """

    def __init__(self, scale: Scale, storage_path: str, speeds: Path) -> None:
        self._scale = scale
        self._storage_path = storage_path
        self._speeds = speeds
        self._hardware: Hardware | None = None

    def hardware(self) -> Hardware:
        """Of one worker, as a process like it finds it. On CPUs all workers may be on one machine, so each counts on its share."""
        if self._hardware is None:
            asked = ray.remote(_probe).options(**self._resources()).remote(known_speeds(self._speeds))
            try:
                key, found = ray.get(asked, timeout=_PROBE_DEADLINE_S)
            except ray.exceptions.GetTimeoutError as error:
                ray.cancel(asked, force=True)
                raise DataError(
                    f"Training on the cluster: no node had {self._asked()} free for a worker within {_PROBE_DEADLINE_S} s.",
                    remedy="Lower `learning.workers`, or join another node.",
                ) from error
            except ray.exceptions.RayError as error:
                raise DataError(
                    f"Training on the cluster: a worker could not be tried out: {_last_line(error)}.",
                    remedy="Every node needs the same Shoal with the extra `bases`.",
                ) from error
            remember_speed(self._speeds, key, found.flops)
            share = found.free_mb if found.gpu else found.free_mb / self._scale.workers
            self._hardware = replace(found, workers=self._scale.workers, free_mb=share)
        return self._hardware

    def run(self, job: LoraJob, context: TrainContext) -> Trained:
        kept = FolderCheckpoints(context.work / CHECKPOINTS)
        state = newest(kept, job.mark)
        if state is not None and state.finished:
            return state.trained()
        # beside this process, so that no other node's end takes it away
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        line = ray.remote(num_cpus=0, label_selector=here)(Line).remote()
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job, "line": line},
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._scale.workers,
                use_gpu=self._scale.gpu,
                label_selector=dict(_PRIVATE) if job.private else None,
            ),
            run_config=ray.train.RunConfig(
                # of this very run, so that one that died is gone on with
                name=f"shoal-lora-{job.mark[:32]}",
                storage_path=self._storage_path or str((context.work / "ray").absolute()),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                failure_config=ray.train.FailureConfig(
                    max_failures=_MOST_FAILURES, controller_failure_limit=_MOST_STARTS
                ),
            ),
        )
        result, said = self._follow(trainer, line, context)
        if said["error"]:
            raise DataError(said["error"])
        if result.checkpoint is None:
            raise DataError("Training on the cluster ended without a checkpoint.", remedy="See Ray's logs.")
        with result.checkpoint.as_directory() as folder:
            state = read_state(Path(folder), job.mark)
            if state is None:
                raise DataError("Training on the cluster left a checkpoint that is not this run's.")
            if state.finished:
                kept.put(state.step, lambda place: _copy(Path(folder), place))
        if not state.finished:
            raise KeyboardInterrupt
        _forget(result)
        return state.trained()

    def _follow(self, trainer: TorchTrainer, line: Any, context: TrainContext) -> tuple[Any, dict[str, Any]]:
        """Let it run beside this thread, and pass on what is said on the line."""
        with ThreadPoolExecutor(1, thread_name_prefix="ray-train") as threads:
            run: Future[Any] = threads.submit(trainer.fit)
            try:
                while not wait([run], timeout=_LOOK_S).done:
                    said = ray.get(line.heard.remote())
                    context.progress(said["fraction"], said["text"])
                    if context.stopped():
                        ray.get(line.stop.remote())
            except BaseException:
                # what was done is kept before whoever waits is told
                ray.get(line.stop.remote())
                raise
            try:
                return run.result(), ray.get(line.heard.remote())
            except ray.train.TrainingFailedError as error:
                raise DataError(
                    f"Training on {self._scale.workers} workers failed: {_last_line(error)}.",
                    remedy="Each worker takes "
                    + self._asked()
                    + "; workers on several machines need `learning.storage_path`, a folder or object store that all reach.",
                ) from error

    def _resources(self) -> dict[str, Any]:
        return {"num_cpus": 1, "num_gpus": 1} if self._scale.gpu else {"num_cpus": 1}

    def _asked(self) -> str:
        return "a CPU and a GPU" if self._scale.gpu else "a CPU"


class Line:
    """An actor between the learning process and the workers: how far a run is, whether it is to stop, why it cannot go on."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._said: dict[str, Any] = {"fraction": 0.0, "text": "starting workers", "error": ""}
        self._stopped = False

    def began(self) -> float:
        """Seconds since workers first began: workers that are started again have only the rest of their time."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return now - self._began

    def say(self, fraction: float, text: str) -> bool:
        """Returns whether the run is to stop."""
        self._said |= {"fraction": fraction, "text": text}
        return self._stopped

    def fail(self, error: str) -> None:
        self._said["error"] = error

    def stop(self) -> None:
        self._stopped = True

    def heard(self) -> dict[str, Any]:
        return dict(self._said)


class RayCheckpoints:
    """Implements `Checkpoints` in a worker: Ray Train keeps them, and hands the last one to workers that are started again."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def found(self) -> Iterator[Path]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                yield Path(folder)

    def put(self, step: int, write: Callable[[Path], None]) -> None:
        if self._rank:
            # all workers report, or the others would wait for ever; their weights are the same
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory(prefix="shoal-lora-") as folder:
            write(Path(folder))
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_worker(config: Mapping[str, Any]) -> None:
    """What each worker does. `config`: `job`, and the handle of its `line`."""
    job, line = config["job"], config["line"]
    place = ray.train.torch.get_device()
    if place.type == "cuda":
        torch.cuda.set_device(place)
    else:
        lowest_priority()
    crew = Distributed(place)
    said: dict[str, Any] = {"fraction": 0.0, "text": ""}
    try:
        files_of(job.base)
        wrong = ""
    except ShoalError as error:
        wrong = str(error)
        ray.get(line.fail.remote(wrong))
    # one that cannot go on must not leave the others waiting for it
    if crew.total([float(bool(wrong))])[0]:
        return
    used = ray.get(line.began.remote())
    context = TrainContext(
        seed=job.seed,
        seconds=job.seconds,
        work=Path(),
        monotonic=time.monotonic,
        progress=lambda fraction, text: said.update(fraction=fraction, text=text),
        # only asked for by the first worker
        stopped=lambda: bool(ray.get(line.say.remote(said["fraction"], said["text"]))),
    )
    with contextlib.suppress(KeyboardInterrupt):
        carry_out(
            replace(job, seconds=max(0.0, job.seconds - used)),
            context,
            crew=crew,
            checkpoints=RayCheckpoints(crew.rank),
        )


def _probe(known: Mapping[str, float]) -> tuple[str, Hardware]:
    """In a process like a worker: what was measured, and what it finds."""
    lowest_priority()
    key, flops = speed_of_this_machine(known)
    return key, this_hardware(flops)


def _copy(folder: Path, place: Path) -> None:
    shutil.copytree(folder, place, dirs_exist_ok=True)


def _forget(result: Any) -> None:
    """What is needed of a run is kept; the rest of it goes."""
    with contextlib.suppress(OSError):
        files, path = result.filesystem, result.path
        (files or pyarrow.fs.LocalFileSystem()).delete_dir(path)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else repr(error)
