"""A node's reading as it crosses processes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.nodes.telemetry import Gpu, Gpus, GpuState, Host, Reading


def read_reading(data: Mapping[str, Any]) -> Reading:
    """A reading as it crosses processes."""
    gpus = data["gpus"]
    return Reading(
        host=Host(**data["host"]),
        gpus=Gpus(
            state=GpuState(gpus["state"]),
            devices=tuple(Gpu(**device) for device in gpus["devices"]),
            reason=gpus["reason"],
        ),
        at=float(data["at"]),
    )
