"""Two processes that share a LoRA run take the very steps of one, up to rounding. Real processes over gloo; no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="the extra `bases` is not installed")

from safetensors.torch import load_file
from small_bases import make_base

MEMBER = Path(__file__).with_name("lora_member.py")


def crew(base: Path, place: Path, size: int, steps: int) -> list[dict[str, Any]]:
    """What each of `size` processes says at its end; the weights of each are in `place`."""
    place.mkdir()
    job = place / "job.json"
    job.write_text(json.dumps({"base": str(base), "steps": steps}), encoding="utf-8")
    members = [
        subprocess.Popen(
            [
                sys.executable,
                str(MEMBER),
                str(job),
                str(rank),
                str(size),
                str(place / "store"),
                str(place / f"{rank}"),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        for rank in range(size)
    ]
    return [json.loads(member.communicate(timeout=250)[0].splitlines()[-1]) for member in members]


def test_two_processes_take_the_steps_of_one_also_where_a_batch_cannot_be_shared(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "smollm", ["one two three"])
    (one,) = crew(base, tmp_path / "one", 1, 7)
    first, second = crew(base, tmp_path / "two", 2, 7)
    assert first == second and (first["step"], first["cut"]) == (one["step"], False) == (7, False)
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert one["losses"][-1] < 0.95 * one["losses"][0]
    weights = [load_file(place / "step-7" / "now.safetensors") for place in sorted(tmp_path.glob("*/[01]"))]
    assert len(weights) == 3
    for name, alone in weights[0].items():
        assert (weights[1][name] == weights[2][name]).all(), "both have the same weights"
        assert (weights[1][name] - alone).abs().max() < 1e-3, name
