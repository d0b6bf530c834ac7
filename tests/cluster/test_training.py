"""A pretrained base trained by two workers on the site's Ray: as good as by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_site import Site

pytest.importorskip("peft", reason="the extra `bases` is not installed")
pytest.importorskip("llguidance", reason="the extra `bases` is not installed")

from lora_driver import CHOOSE, TRAIN
from small_bases import make_base

from shoal.serve.engines import load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 45
DRIVER = Path(__file__).with_name("lora_driver.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{e.request.last_user_text} {e.content}" for e in TRAIN]
    words = "You read orders. user assistant system"
    return make_base(tmp_path_factory.mktemp("bases") / "smollm", "smollm", [*texts, words])


class Run:
    """One learning process."""

    def __init__(self, site: Site, base: Path, place: Path, workers: int) -> None:
        self.out, self.work = place / "version", place / "work"
        job = {
            "home": str(site.home.root),
            "base": str(base),
            "out": str(self.out),
            "work": str(self.work),
            "workers": workers,
            "steps": STEPS,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(job)],
            stdout=subprocess.PIPE,
            stderr=(place / "errors.log").open("ab"),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self.errors = place / "errors.log"
        self.steps: list[int] = []

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                if said.get("text", "").startswith("step "):
                    self.steps.append(int(said["text"].split()[1]))
                yield said

    def until_step(self, number: int) -> None:
        assert any(self.steps and self.steps[-1] >= number for _ in self.lines()), self.errors.read_text()

    def finish(self) -> dict[str, Any]:
        details = [said["done"] for said in self.lines() if "done" in said]
        self.process.wait(60)
        assert details, self.errors.read_text()[-4000:]
        return dict(details[0])


def right(version: Path) -> int:
    answers = load(version).answer([e.request for e in CHOOSE])
    return sum(
        json.loads(a.content or "{}") == json.loads(e.content) for a, e in zip(answers, CHOOSE, strict=True)
    )


def losses(run: Run) -> list[float]:
    (kept,) = (run.work / "lora").iterdir()
    return list(json.loads((kept / "state.json").read_text(encoding="utf-8"))["losses"])


def test_two_workers_train_as_well_as_one_and_leave_the_same_files(
    site: Site, base: Path, tmp_path: Path
) -> None:
    found = {}
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        run = Run(site, base, place, workers)
        details = run.finish()
        assert (details["workers"], details["steps"], details["cut"]) == (workers, STEPS, False)
        assert losses(run)[-1] < 0.2 * losses(run)[0], "the loss falls"
        found[workers] = (details["choose_loss"], right(run.out), {p.name for p in run.out.iterdir()})
    one, two = found[1], found[2]
    assert two[2] == one[2]
    assert min(one[1], two[1]) >= 36
    assert two[0] == pytest.approx(one[0], abs=0.05)
    assert not (tmp_path / "2" / "work" / "ray").exists() or not any(
        (tmp_path / "2" / "work" / "ray").iterdir()
    )


def workers_of_ray_train() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "TrainWorker" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.skipif(
    "SHOAL_SLOW_TESTS" not in os.environ,
    reason="Ray Train waits for minutes before it starts workers anew; SHOAL_SLOW_TESTS=1 runs it",
)
def test_a_run_whose_worker_is_killed_goes_on_from_the_last_checkpoint(
    site: Site, base: Path, tmp_path: Path
) -> None:
    run = Run(site, base, tmp_path, 2)
    run.until_step(20)
    victims = workers_of_ray_train()
    assert len(victims) == 2
    before = run.steps[-1]
    victims[0].kill()
    details = run.finish()
    assert (details["steps"], details["cut"]) == (STEPS, False)
    resumed = next(b for a, b in zip(run.steps, run.steps[1:], strict=False) if b < a)
    assert 5 < resumed <= before + 10
    assert losses(run)[-1] < 0.2 * losses(run)[0]
    assert right(run.out) >= 36
