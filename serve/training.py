"""Where pretrained bases are trained: in the learning process, or on the Ray cluster of the site that runs. Decides; `ray_training.py` does.

Loads Ray only where a cluster is to be used.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.config import Config
from shoal.errors import DataError
from shoal.home import Home
from shoal.serve.site_record import SiteRecord, read_record

if TYPE_CHECKING:
    from shoal.agents.learning.lora_job import LoraExecutor

log = logging.getLogger("shoal.learning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many workers share a run, and whether each has a GPU."""

    workers: int
    gpu: bool


def scale_of(workers: int, *, gpu_here: bool, gpus_elsewhere: int) -> Scale | None:
    """How a run is shared on a cluster; None where the learning process trains alone.

    Args:
        workers: wished for.
        gpus_elsewhere: free GPUs of the cluster, this machine's included.
    """
    if gpus_elsewhere and (workers > 1 or not gpu_here):
        # one GPU is worth more than several CPUs
        scale = Scale(workers=min(workers, gpus_elsewhere), gpu=True)
        return None if scale.workers == 1 and gpu_here else scale
    return Scale(workers=workers, gpu=False) if workers > 1 and not gpu_here else None


@contextlib.contextmanager
def training(home: Home, config: Config) -> Iterator[LoraExecutor | None]:
    """Who trains pretrained bases in a learning run; None where the learning process does.

    A cluster is used where a site is up and either `learning.workers` asks for more than one process, or the site joined a cluster: a
    GPU of another node is then used if this one has none.
    """
    settings = config.learning
    record = _running(home) if settings.bases else None
    if record is None or (settings.workers == 1 and record.mode == "local"):
        if settings.bases and settings.workers > 1:
            log.warning("learning.workers is %d, and no site is up: one process trains", settings.workers)
        yield None
        return
    if record.mode == "local":
        # Ray reads these when it is imported
        os.environ.update(local_access(home))
    try:
        from shoal.serve.ray_training import connected
    except ImportError as error:
        raise DataError(
            f"Training on the cluster needs Ray Train, and it cannot be loaded: {error}.",
            remedy="pip install 'shoal[bases]', or leave `learning.workers` at 1.",
        ) from error
    with connected(
        record.address, settings.workers, settings.storage_path, home.work / "speed.json"
    ) as found:
        yield found


def local_access(home: Home) -> dict[str, str]:
    """The environment in which a process may connect to the Ray that the site started itself."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home.ray_token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _running(home: Home) -> SiteRecord | None:
    record = read_record(home.site)
    return record if record is not None and record.phase == "up" else None
