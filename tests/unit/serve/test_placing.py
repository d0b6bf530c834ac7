from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.agents.registry.records import TaskId, Version, VersionState
from shoal.config import PlacementConfig
from shoal.serve.placing import demand_of, demands_of, folder_mb, items_of, on_data_node


def version(task: str = "Sort Tickets/é", **needs: Any) -> Version:
    return Version(
        task_id=TaskId(task),
        number=3,
        kind="classifier",
        state=VersionState.SERVING,
        folder="t/3",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        needs=needs,
    )


def test_small_versions_share_the_host_and_large_ones_do_not() -> None:
    placement = PlacementConfig(host_below_mb=64)
    assert demand_of(version(), "sort@3", placement, 63.9).small
    assert not demand_of(version(), "sort@3", placement, 64).small


@pytest.mark.parametrize(
    ("placement", "shared"), [(PlacementConfig(), False), (PlacementConfig(gpus_per_replica=0.5), True)]
)
def test_a_small_version_that_needs_more_of_a_gpu_than_the_host_has_is_on_its_own(
    placement: PlacementConfig, shared: bool
) -> None:
    assert demand_of(version(gpus=0.5), "sort@3", placement, 1).small is shared


def test_a_versions_card_says_its_tier_and_whether_its_calls_are_private() -> None:
    asked = demand_of(
        version(tier="edge", private=True, why_tier="as most of its calls wish"), "s", PlacementConfig(), 1
    )
    assert (asked.needs.tier, asked.private, asked.why_tier) == ("edge", True, "as most of its calls wish")
    assert demand_of(version(), "s", PlacementConfig(tier="local"), 1).needs.tier == "local"


def test_a_folders_size_is_that_of_all_files_below_it_and_a_missing_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"x" * (1 << 20))
    (tmp_path / "deep" / "b").write_bytes(b"x" * (1 << 19))
    assert folder_mb(tmp_path) == 1.5
    assert folder_mb(tmp_path / "nothing") == 0


def test_demands_have_the_tasks_names_and_hosts_are_told_folders_and_digests(tmp_path: Path) -> None:
    one = version("t")
    [asked] = demands_of([one], {"t": "sort"}, PlacementConfig(), tmp_path, size=lambda folder: 500.0)
    assert (asked.key, asked.name, asked.small) == ("t@3", "sort@3", False)
    assert items_of([one], tmp_path) == {
        "t@3": {"key": "t@3", "folder": str(tmp_path / "t/3"), "sha256": "0" * 64}
    }


def test_a_large_version_asks_for_memory_by_its_size_unless_its_card_says_how_much() -> None:
    assert demand_of(version(), "s", PlacementConfig(), 500).needs.memory_mb == 1400
    assert demand_of(version(memory_mb=700), "s", PlacementConfig(), 500).needs.memory_mb == 700


def test_an_adapter_asks_for_its_base_beside_what_it_adds_itself() -> None:
    card = {"base": "abc-float32", "memory_mb": 900.0}
    asked = demand_of(version(**card), "s", PlacementConfig(host_below_mb=8), 12.0)
    assert (asked.small, asked.base, asked.base_mb, asked.needs.memory_mb) == (True, "abc-float32", 900, 12)
    alone = demand_of(version(**card, gpus=1), "s", PlacementConfig(), 12.0)
    assert (alone.small, alone.base, alone.needs.memory_mb) == (False, "", 900)


def test_actors_stay_where_the_data_folder_is() -> None:
    assert on_data_node({"node:10.0.0.1": 0.001}) == {"resources": {"node:10.0.0.1": 0.001}}
    assert on_data_node({}) == {"label_selector": {"shoal-node": "head"}}
