"""Where pretrained bases are trained. No Ray is started."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from shoal.config import parse_config
from shoal.errors import ConfigError
from shoal.home import Home
from shoal.serve.training import Scale, local_access, scale_of, training


@pytest.mark.parametrize(
    ("workers", "gpu_here", "gpus", "scale"),
    [
        (1, False, 0, None),
        (1, True, 1, None),
        (3, False, 0, Scale(workers=3, gpu=False)),
        (1, False, 2, Scale(workers=1, gpu=True)),
        (2, False, 4, Scale(workers=2, gpu=True)),
        (4, False, 2, Scale(workers=2, gpu=True)),
        (2, True, 2, Scale(workers=2, gpu=True)),
        (2, True, 1, None),
        (2, True, 0, None),
    ],
)
def test_a_gpu_of_the_cluster_is_worth_more_than_cpus_and_the_process_here_more_than_a_detour(
    workers: int, gpu_here: bool, gpus: int, scale: Scale | None
) -> None:
    assert scale_of(workers, gpu_here=gpu_here, gpus_elsewhere=gpus) == scale


def test_without_bases_or_without_a_site_the_learning_process_trains_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path)
    asked = parse_config({"learning": {"workers": 2}}, source="t")
    with training(home, asked) as executor:
        assert executor is None
    with caplog.at_level(logging.WARNING), training(home, asked.model_copy(deep=True)) as executor:
        assert executor is None
    assert not caplog.records, "nobody asked for a base"
    listed = parse_config({"learning": {"workers": 2, "bases": ["org/a"]}}, source="t")
    with caplog.at_level(logging.WARNING), training(home, listed) as executor:
        assert executor is None
    assert "no site is up: one process trains" in caplog.text


def test_one_worker_on_a_sites_own_ray_stays_in_the_learning_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record = {
        "format": 1,
        "id": "a",
        "mode": "local",
        "phase": "up",
        "address": "127.0.0.1:1",
        "run_folder": "",
        "host": "127.0.0.1",
        "port": 1,
        "grpc_port": 2,
        "generalist_url": None,
        "generalist_model": None,
        "started_at": 0.0,
        "owns_serve": True,
        "nodes": [],
        "processes": [],
    }
    home.site.write_text(json.dumps(record), encoding="utf-8")
    config = parse_config({"learning": {"bases": ["org/a"]}}, source="t")
    with training(home, config) as executor:
        assert executor is None


def test_the_sites_own_ray_is_entered_with_its_token_by_path(tmp_path: Path) -> None:
    found = local_access(Home(tmp_path))
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray.token")
    assert found["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in found


def test_workers_are_a_number_from_one_on() -> None:
    assert parse_config({}, source="t").learning.workers == 1
    with pytest.raises(ConfigError, match=r"`learning\.workers`"):
        parse_config({"learning": {"workers": 0}}, source="t")
