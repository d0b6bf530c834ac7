from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shoal.cluster.placement import Weights
from shoal.cluster.placement_loop import PlacementLoop
from shoal.cluster.ports import Application, HeldReport

from .test_placement import EDGE, HEAD, HOST_NEEDS, THREE, adapter, demand


class ListCarrier:
    """Remembers what was to run; loads it at once. `error` is raised instead."""

    def __init__(self) -> None:
        self.told: list[list[Application]] = []
        self.error: Exception | None = None

    async def carry_out(self, applications: Sequence[Application]) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(list(applications))

    async def reports(self, names: Sequence[str]) -> Mapping[str, HeldReport]:
        running = self.told[-1] if self.told else []
        return {a.name: HeldReport(loaded=tuple(item["key"] for item in a.items)) for a in running}


class MemoryStore:
    def __init__(self) -> None:
        self.body: Mapping[str, Any] | None = None

    def read(self) -> Mapping[str, Any] | None:
        return self.body

    def write(self, body: Mapping[str, Any]) -> None:
        self.body = body


class Bench:
    def __init__(self) -> None:
        self.carrier, self.store = ListCarrier(), MemoryStore()
        self.loop = self.restart()

    def restart(self) -> PlacementLoop:
        self.loop = PlacementLoop(
            carrier=self.carrier, store=self.store, host_needs=HOST_NEEDS, weights=Weights(), pin={}
        )
        self.loop.recall()
        return self.loop


ITEMS = {"t@1": {"key": "t@1", "folder": "/m/t/1", "sha256": "0"}}


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_host_of_a_base_asks_ray_for_its_memory_once(bench: Bench) -> None:
    bench.loop.see([HEAD])
    held = [adapter("a@1"), adapter("b@1")]
    bench.loop.want([*held, demand()], ITEMS)
    await bench.loop.round(["shoal_memory_mb"])
    [applications] = bench.carrier.told
    assert {a.name: a.options["resources"] for a in applications} == {
        "shoal-base-abc-float32-head": {"shoal_memory_mb": 3072.0},
        "shoal-host-head": {"shoal_memory_mb": 400.0},
    }
    again = bench.restart()
    assert again.demands is not None and {d.base for d in again.demands} == {"abc-float32", ""}


async def test_a_demand_becomes_an_application_on_a_node_by_its_label(bench: Bench) -> None:
    bench.loop.see(THREE)
    bench.loop.want([demand(tier="edge")], ITEMS)
    await bench.loop.round(["shoal_memory_mb"])
    [[application]] = bench.carrier.told
    assert application.name == "shoal-host-edge-1"
    assert application.options["label_selector"] == {"shoal-node": "edge-1"}
    assert application.options["resources"] == {"shoal_memory_mb": 400.0}
    assert application.items == (ITEMS["t@1"],)
    assert bench.loop.loaded == ("t@1",)
    assert bench.loop.places() == {"shoal-host-edge-1": {"node": "edge-1", "tier": "edge"}}


async def test_nothing_is_told_again_while_nothing_changes_and_load_alone_changes_nothing(
    bench: Bench,
) -> None:
    bench.loop.see(THREE)
    bench.loop.want([demand()], ITEMS)
    for _ in range(3):
        bench.loop.see(THREE)
        bench.loop.want([demand()], ITEMS)
        await bench.loop.round([])
    assert (len(bench.carrier.told), bench.loop.decisions) == (1, 1)


async def test_a_lost_node_moves_its_specialists_and_one_that_comes_back_gets_them_again(
    bench: Bench,
) -> None:
    bench.loop.want([demand(tier="edge")], ITEMS)
    bench.loop.see(THREE)
    await bench.loop.round([])
    bench.loop.see((HEAD, replace(EDGE, alive=False)))
    await bench.loop.round([])
    assert bench.loop.addresses() == {"t@1": "shoal-host-head"}
    bench.loop.see(THREE)
    await bench.loop.round([])
    assert bench.loop.addresses() == {"t@1": "shoal-host-edge-1"}


async def test_one_that_was_killed_reads_back_what_it_decided_and_moves_nothing(bench: Bench) -> None:
    bench.loop.see(THREE)
    bench.loop.want([demand(tier="edge")], ITEMS)
    await bench.loop.round([])
    again = bench.restart()
    assert again.addresses() == {"t@1": "shoal-host-edge-1"}
    again.see(THREE)
    await again.round([])
    assert bench.carrier.told[0] == bench.carrier.told[1], "what runs is adopted: told the same"
    assert again.demands is not None and [d.key for d in again.demands] == ["t@1"]


async def test_what_could_not_be_carried_out_is_tried_again(bench: Bench) -> None:
    bench.loop.see(THREE)
    bench.loop.want([demand()], ITEMS)
    bench.carrier.error = RuntimeError("Serve is away")
    with pytest.raises(RuntimeError):
        await bench.loop.round([])
    assert "away" in bench.loop.trouble
    bench.carrier.error = None
    await bench.loop.round([])
    assert len(bench.carrier.told) == 1 and bench.loop.trouble == ""


async def test_telemetry_of_a_new_node_is_waited_for_but_not_for_long(bench: Bench) -> None:
    silent = tuple(replace(node, reading=None) for node in THREE)
    bench.loop.want([demand()], ITEMS)
    for _ in range(3):
        bench.loop.see(silent)
        await bench.loop.round([])
    assert bench.carrier.told == []
    await bench.loop.round([])
    assert len(bench.carrier.told) == 1


async def test_deciding_afresh_forgets_where_things_run(bench: Bench) -> None:
    bench.loop.see(THREE)
    bench.loop.want([demand()], ITEMS)
    await bench.loop.round([])
    bench.loop.afresh()
    await bench.loop.round([])
    assert bench.loop.decisions == 2
    standing = bench.loop.standing()
    assert standing["decision"]["assignments"]["t@1"]["node"] == "head"
