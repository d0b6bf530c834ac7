"""How a process that learns yields to everything else on its machine."""

from __future__ import annotations

import contextlib
import os


def lowest_priority() -> None:
    """Give this process and its threads the lowest priority that the system has."""
    with contextlib.suppress(OSError):
        os.nice(19)
    if hasattr(os, "sched_setscheduler"):
        for policy in (os.SCHED_IDLE, os.SCHED_BATCH):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, policy, os.sched_param(0))
                break


def keep_to_one_core() -> None:
    """The last of those that this process may use."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
