"""How a time limit becomes the steps of a LoRA run, and what is known of a machine's speed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("peft", reason="the extra `bases` is not installed")

from shoal.agents.learning.base_files import load_model
from shoal.agents.learning.bases import Base, Fit
from shoal.agents.learning.lora_executors import InProcess
from shoal.agents.learning.lora_job import Hardware, LoraJob, LoraSettings, Pair, Plan, plan_steps
from shoal.agents.learning.speed import known_speeds, remember_speed, speed_of_this_machine
from shoal.errors import DataError

PAIRS = tuple(Pair((1,) * 100, 50) for _ in range(1600))
SETTINGS = LoraSettings(batch=16, epochs=4)


def steps(seconds: float, *, twice: bool = False, **machine: float) -> int:
    hardware = Hardware(free_mb=1000, **{"flops": 4e10, **machine})  # type: ignore[arg-type]
    return plan_steps(PAIRS, seconds, 100_000_000, SETTINGS, hardware, twice=twice).steps


def test_steps_are_what_the_time_the_speed_and_the_workers_allow_up_to_the_passes_wanted() -> None:
    # 4e10 / (4 * 1e8) = 100 tokens a second; 80 s of 100 make 8,000 tokens: five batches of 1,600
    assert steps(100) == 5
    assert steps(100, flops=8e10) == steps(100, workers=2) == 10
    assert steps(150, twice=True) == 5
    assert steps(1e9) == 400, "four passes"


def test_a_machines_speed_is_measured_once_and_then_known(tmp_path: Path) -> None:
    place = tmp_path / "work" / "speed.json"
    assert known_speeds(place) == {}
    first = InProcess(speeds=place).hardware()
    known = known_speeds(place)
    assert list(known.values()) == [first.flops]
    assert 1e8 < first.flops < 1e13, "a core does something between a calculator's work and a rack's"
    (key,) = known
    place.write_text(f'{{"{key}": 12345.0, "another": 1.0}}', encoding="utf-8")
    assert InProcess(speeds=place).hardware().flops == 12345.0, (
        "not measured again: a run that died reckons alike"
    )
    assert speed_of_this_machine({key: 5.0}) == (key, 5.0)
    assert InProcess().hardware().flops == 4e10, "nobody asked for a measurement"


@pytest.mark.parametrize("damage", ["", "[]", '{"a": "b"}', '{"a": 0}', "{"])
def test_a_damaged_file_of_speeds_is_as_none(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "speed.json"
    place.write_text(damage, encoding="utf-8")
    assert known_speeds(place) == {}
    remember_speed(place, "a", 2.0)
    assert known_speeds(place) == {"a": 2.0}


def test_four_bits_without_a_gpu_are_refused_and_nothing_else_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DataError, match="cannot be loaded in 4 bits: there is no CUDA GPU"):
        load_model(tmp_path, "LlamaForCausalLM", torch.float32, four_bit=True)
    assert InProcess().hardware().no_four_bit == "there is no CUDA GPU"


def test_a_jobs_mark_is_of_what_is_trained_and_not_of_where_the_files_are() -> None:
    base = Base(
        model="/here/a",
        revision="",
        architecture="LlamaForCausalLM",
        licence="mit",
        context=512,
        parameters=1,
        hidden=1,
        layers=1,
        kv_values=1,
        vocabulary=1,
        bytes_each=4,
        sha256="0" * 64,
    )

    def job(**changes: object) -> LoraJob:
        facts = {
            "base": base,
            "dtype": "float32",
            "four_bit": False,
            "pairs": PAIRS[:2],
            "watched": (),
            "plan": Plan(5, 1),
            "fit": Fit(16, False),
            "settings": SETTINGS,
            "seed": 1,
            "seconds": 10.0,
            "pad": 0,
        }
        return LoraJob(**{**facts, **changes})  # type: ignore[arg-type]

    from dataclasses import replace

    same = [job(base=replace(base, model="/there/a")), job(seconds=3.0), job(private=True)]
    other = [
        job(base=replace(base, sha256="1" * 64)),
        job(pairs=PAIRS[:1]),
        job(seed=2),
        job(plan=Plan(6, 1)),
    ]
    assert {j.mark for j in same} == {job().mark}
    assert len({j.mark for j in other} | {job().mark}) == 5
