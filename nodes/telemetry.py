"""What one machine measures of itself: host figures through psutil, GPU figures through NVML.

Absence is a named state (`NO_DRIVER`, `NO_DEVICE`), never a zero that could be read as an idle GPU. Decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, Protocol

import psutil

_MIB = 1 << 20


class GpuState(StrEnum):
    """`NO_DRIVER`: no NVIDIA driver is loaded; `NO_DEVICE`: the driver sees no GPU; `FAILED`: it does not answer."""

    PRESENT = "present"
    NO_DRIVER = "no_driver"
    NO_DEVICE = "no_device"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. Figures that this GPU does not report (a MIG slice's power, for example) are None."""

    index: int
    name: str
    memory_total_mb: int
    memory_free_mb: int
    utilisation: float | None
    power_watts: float | None
    temperature_celsius: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The GPUs of a machine; `devices` is empty unless `state` is `PRESENT`, and `reason` says why."""

    state: GpuState
    devices: tuple[Gpu, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """CPU share used since the last look (0 to 1), memory in MiB, load over the last minute."""

    cpus: int
    cpu_share: float
    memory_total_mb: int
    memory_available_mb: int
    load_1m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a machine."""

    host: Host
    gpus: Gpus
    at: float


class Telemetry(Protocol):
    def read(self) -> Reading:
        """Never raises for what a machine lacks: that is a state."""
        ...


@dataclass
class FakeTelemetry:
    """Gives the reading that it was given."""

    reading: Reading

    def read(self) -> Reading:
        return self.reading


def read_host() -> Host:
    memory = psutil.virtual_memory()
    return Host(
        cpus=psutil.cpu_count() or 1,
        cpu_share=psutil.cpu_percent(interval=None) / 100,
        memory_total_mb=memory.total // _MIB,
        memory_available_mb=memory.available // _MIB,
        load_1m=psutil.getloadavg()[0],
    )


def read_gpus(nvml: Any = None) -> Gpus:
    """Ask NVML for every GPU.

    Args:
        nvml: the `pynvml` module, or one with its functions.
    """
    if nvml is None:
        nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        # no library at all, or a library without a loaded driver: either way there is no driver to ask
        absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        state = GpuState.NO_DRIVER if error.value in absent else GpuState.FAILED
        return Gpus(state=state, reason=str(error))
    try:
        count = nvml.nvmlDeviceGetCount()
        if count == 0:
            return Gpus(state=GpuState.NO_DEVICE, reason="the driver sees no GPU")
        return Gpus(state=GpuState.PRESENT, devices=tuple(_gpu(nvml, index) for index in range(count)))
    except nvml.NVMLError as error:
        return Gpus(state=GpuState.FAILED, reason=str(error))
    finally:
        nvml.nvmlShutdown()


def gpu_joules(nvml: Any = None) -> float | None:
    """What the GPUs that this process may use have taken since the driver was loaded; None where NVML does not count that.

    Args:
        nvml: the `pynvml` module, or one with its functions.
    """
    if nvml is None:
        nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        devices = _own_devices(int(nvml.nvmlDeviceGetCount()))
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in devices]
        counted = [float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles]
        return sum(counted) / 1000 if counted else None
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _own_devices(count: int) -> list[int]:
    """Indices of the GPUs that CUDA shows to this process; all of them where it hides none, or names them by UUID."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if shown is None else [name.strip() for name in shown.split(",") if name.strip()]
    if names is None or not all(name.isdigit() for name in names):
        return list(range(count))
    return [int(name) for name in names if int(name) < count]


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)

    def figure(read: Callable[[], float]) -> float | None:
        try:
            return float(read())
        except nvml.NVMLError:
            return None

    percent = figure(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    milliwatts = figure(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_total_mb=memory.total // _MIB,
        memory_free_mb=memory.free // _MIB,
        utilisation=None if percent is None else percent / 100,
        power_watts=None if milliwatts is None else milliwatts / 1000,
        temperature_celsius=figure(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
    )


class MachineTelemetry:
    """This machine. Implements `Telemetry`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def read(self) -> Reading:
        return Reading(host=read_host(), gpus=read_gpus(), at=self._clock())
