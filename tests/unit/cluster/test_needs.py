from __future__ import annotations

import pytest

from shoal.cluster.needs import (
    MEMORY_RESOURCE,
    Needs,
    actor_options,
    node_labels,
    node_resources,
    parse_needs,
)
from shoal.errors import ConfigError

DEFAULT = Needs(cpus=0.5, memory_mb=400)


def test_what_a_version_does_not_say_is_taken_from_the_default() -> None:
    assert parse_needs({"cpus": 1}, DEFAULT) == Needs(cpus=1.0, memory_mb=400)


def test_needs_become_ray_actor_options_with_a_fraction_of_a_gpu_memory_and_the_tiers_label() -> None:
    needs = Needs(cpus=0.5, gpus=0.25, memory_mb=900.4, tier="edge")
    assert actor_options(needs, declared=["CPU", MEMORY_RESOURCE]) == {
        "num_cpus": 0.5,
        "num_gpus": 0.25,
        "resources": {MEMORY_RESOURCE: 900.0},
        "label_selector": {"shoal-tier": "edge"},
    }


def test_a_resource_that_no_node_declares_is_not_asked_for() -> None:
    assert actor_options(DEFAULT, declared=["CPU"]) == {"num_cpus": 0.5}


def test_a_node_declares_what_specialists_ask_for() -> None:
    asked = actor_options(Needs(memory_mb=10, tier="local"), declared=node_resources(2048))
    assert set(asked["resources"]) == set(node_resources(2048))
    assert asked["label_selector"] == node_labels("local")


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"cpus": -1}, "needs.cpus"),
        ({"cpus": True}, "needs.cpus"),
        ({"memory_mb": "much"}, "needs.memory_mb"),
        ({"gpus": 1.5}, "needs.gpus"),
        ({"gpus": float("nan")}, "needs.gpus"),
        ({"tier": "moon"}, "needs.tier"),
    ],
)
def test_a_bad_need_is_refused_with_its_path(raw: dict[str, object], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_needs(raw, DEFAULT)
    assert caught.value.param == param
