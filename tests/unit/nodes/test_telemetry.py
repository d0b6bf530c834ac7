from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.nodes.identity import node_identity
from shoal.nodes.telemetry import (
    FakeTelemetry,
    Gpus,
    GpuState,
    MachineTelemetry,
    Reading,
    gpu_joules,
    read_gpus,
    read_host,
)


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class FakeNvml:
    """`pynvml` as far as telemetry uses it."""

    NVMLError = NvmlError
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self, *, devices: int = 1, init_error: int | None = None, power_error: int | None = None
    ) -> None:
        self._devices = devices
        self._init_error = init_error
        self._power_error = power_error
        self.open = 0

    def nvmlInit(self) -> None:
        if self._init_error is not None:
            raise NvmlError(self._init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self._devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 << 30, free=20 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=50)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if self._power_error is not None:
            raise NvmlError(self._power_error)
        return 250_000

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H200"

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 41


@pytest.mark.parametrize("code", [9, 12])
def test_a_machine_without_a_driver_is_in_a_named_state(code: int) -> None:
    found = read_gpus(FakeNvml(init_error=code))
    assert (found.state, found.devices) == (GpuState.NO_DRIVER, ())
    assert found.reason


def test_a_driver_that_fails_otherwise_is_not_taken_for_absent() -> None:
    assert read_gpus(FakeNvml(init_error=999)).state is GpuState.FAILED


def test_a_driver_without_a_gpu_is_another_state_than_no_driver() -> None:
    assert read_gpus(FakeNvml(devices=0)).state is GpuState.NO_DEVICE


def test_a_gpus_figures_have_the_units_of_their_names() -> None:
    nvml = FakeNvml()
    gpu = read_gpus(nvml).devices[0]
    assert (gpu.memory_total_mb, gpu.memory_free_mb) == (80 << 10, 20 << 10)
    assert (gpu.utilisation, gpu.power_watts, gpu.temperature_celsius) == (0.5, 250.0, 41.0)
    assert nvml.open == 0


def test_a_figure_that_the_gpu_does_not_report_is_none_and_the_others_are_there() -> None:
    gpu = read_gpus(FakeNvml(power_error=3)).devices[0]
    assert gpu.power_watts is None
    assert gpu.name == "H200"


def test_this_machine_has_processors_and_memory_and_its_gpus_a_state() -> None:
    reading = MachineTelemetry(clock=lambda: 5.0).read()
    assert reading.host.cpus >= 1
    assert 0 < reading.host.memory_available_mb <= reading.host.memory_total_mb
    assert reading.gpus.state in GpuState
    assert (reading.gpus.state is GpuState.PRESENT) == bool(reading.gpus.devices)
    assert reading.at == 5.0


def test_the_fake_gives_the_reading_that_it_was_given() -> None:
    reading = Reading(host=read_host(), gpus=Gpus(state=GpuState.NO_DRIVER), at=1.0)
    assert FakeTelemetry(reading).read() is reading


def test_a_machine_is_local_unless_its_environment_says_otherwise() -> None:
    assert node_identity({}, hostname="desk").tier == "local"
    assert node_identity({"SHOAL_TIER": "edge"}, hostname="box").tier == "edge"


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(ConfigError, match="moon"):
        node_identity({"SHOAL_TIER": "moon"})


class CountingNvml(FakeNvml):
    """Counts energy: device 0 has taken 5 J, device 1 has taken 10 J, ..."""

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self._power_error is not None:
            raise NvmlError(self._power_error)
        return 5000 * (handle + 1)


def test_energy_is_of_the_gpus_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = CountingNvml(devices=3)
    assert gpu_joules(nvml) == 30.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_joules(nvml) == 10.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_joules(nvml) is None
    assert nvml.open == 0


@pytest.mark.parametrize(
    "nvml", [CountingNvml(init_error=12), CountingNvml(devices=0), CountingNvml(power_error=3)]
)
def test_energy_that_nobody_counts_is_none(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_joules(nvml) is None
