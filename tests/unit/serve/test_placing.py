from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.agents.registry.records import TaskId, Version, VersionState
from shoal.config import PlacementConfig
from shoal.serve.placing import HOST_APPLICATION, application_of, folder_mb, needs_of, place


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


def test_small_versions_share_the_host_and_large_ones_have_an_application_with_a_plain_name() -> None:
    placement = PlacementConfig(host_below_mb=64)
    assert application_of(version(), placement, 63.9) == HOST_APPLICATION
    assert application_of(version(), placement, 64) == "shoal-v-sort-tickets-3"


@pytest.mark.parametrize(
    ("needs", "placement", "shared"),
    [
        ({"gpus": 0.5}, PlacementConfig(), False),
        ({"gpus": 0.5}, PlacementConfig(gpus_per_replica=0.5), True),
        ({"tier": "edge"}, PlacementConfig(), False),
        ({"tier": "edge"}, PlacementConfig(tier="edge"), True),
    ],
)
def test_a_small_version_that_needs_what_the_host_has_not_gets_its_own_application(
    needs: dict[str, Any], placement: PlacementConfig, shared: bool
) -> None:
    assert (application_of(version(**needs), placement, 1) == HOST_APPLICATION) is shared


def test_a_folders_size_is_that_of_all_files_below_it_and_a_missing_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"x" * (1 << 20))
    (tmp_path / "deep" / "b").write_bytes(b"x" * (1 << 19))
    assert folder_mb(tmp_path) == 1.5
    assert folder_mb(tmp_path / "nothing") == 0


def test_versions_are_placed_by_their_folders_size(tmp_path: Path) -> None:
    placed = place([version("t")], PlacementConfig(), tmp_path, size=lambda folder: 500.0)
    assert placed == {"t@3": "shoal-v-t-3"}


def test_a_large_version_asks_for_memory_by_its_size_unless_its_card_says_how_much() -> None:
    assert needs_of(version(), PlacementConfig(), 500).memory_mb == 1400
    assert needs_of(version(memory_mb=700), PlacementConfig(), 500).memory_mb == 700
