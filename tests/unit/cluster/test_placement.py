from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.needs import Needs
from shoal.cluster.placement import Decision, Demand, NodeState, Weights, decide, host_asks
from shoal.nodes.telemetry import Gpus, GpuState, Host, Reading

HOST_NEEDS = Needs(cpus=0.5, memory_mb=400)


def node(name: str, tier: str, *, load: float | None = 0.0, cpus: float = 2, **more: object) -> NodeState:
    reading = None
    if load is not None:
        host = Host(cpus=2, cpu_share=0.0, memory_total_mb=8000, memory_available_mb=4000, load_1m=2 * load)
        reading = Reading(host=host, gpus=Gpus(state=GpuState.NO_DRIVER), at=0.0)
    base = {
        "id": f"id-{name}",
        "name": name,
        "tier": tier,
        "cpus": cpus,
        "memory_mb": 8000,
        "reading": reading,
    }
    return NodeState(**{**base, **more})  # type: ignore[arg-type]


HEAD = node("head", "local", head=True)
EDGE = node("edge-1", "edge", simulated=True)
CLOUD = node("cloud-1", "cloud", simulated=True)
THREE = (HEAD, EDGE, CLOUD)


def demand(key: str = "t@1", **more: object) -> Demand:
    needs = Needs(
        cpus=0.5, memory_mb=500, tier=str(more.pop("tier", "")), gpus=float(str(more.pop("gpus", 0)))
    )
    return Demand(key=key, name=f"sort@{key[-1]}", needs=needs, **more)  # type: ignore[arg-type]


def where(decision: Decision) -> dict[str, str]:
    return {key: found.node for key, found in decision.assignments.items()}


def test_a_wished_tier_is_kept_and_said_and_every_other_node_has_its_reason() -> None:
    found = decide([demand(tier="edge", why_tier="as most of its calls wish")], THREE, host_needs=HOST_NEEDS)
    placed = found.assignments["t@1"]
    assert (placed.node, placed.tier, placed.application) == ("edge-1", "edge", "shoal-host-edge-1")
    assert placed.reasons[0] == "tier edge, as most of its calls wish"
    assert {name for name, _ in placed.rejected} == {"head", "cloud-1"}
    assert all("tier" in reason for _, reason in placed.rejected)


def test_without_a_wish_it_stays_at_home_and_small_ones_share_a_host() -> None:
    found = decide([demand("a@1"), demand("b@1")], THREE, host_needs=HOST_NEEDS)
    assert {a.application for a in found.assignments.values()} == {"shoal-host-head"}


def adapter(key: str, base: str = "abc-float32", base_mb: float = 3000, adds_mb: float = 20) -> Demand:
    return Demand(
        key=key, name=key, needs=Needs(cpus=0.5, memory_mb=adds_mb), small=True, base=base, base_mb=base_mb
    )


def test_a_base_is_asked_for_once_by_the_host_of_its_adapters_and_not_by_that_of_others() -> None:
    held = [adapter("a@1"), adapter("b@1", base_mb=3100)]
    assert host_asks([demand()], HOST_NEEDS) == HOST_NEEDS
    assert host_asks(held[:1], HOST_NEEDS).memory_mb == 3072
    assert host_asks(held, HOST_NEEDS) == Needs(cpus=0.5, memory_mb=3328), "3,140 MiB, in blocks of 256"
    found = decide([*held, demand("c@1")], [HEAD], host_needs=HOST_NEEDS)
    assert {a.application for k, a in found.assignments.items() if k != "c@1"} == {
        "shoal-base-abc-float32-head"
    }
    assert found.assignments["c@1"].application == "shoal-host-head"


def test_a_node_without_room_for_a_base_does_not_get_its_adapters() -> None:
    small = replace(HEAD, memory_mb=4000.0)
    # two bases need 3,072 MiB each; the edge node has room for both
    found = decide(
        [adapter("a@1"), adapter("b@1", base="def-float32"), adapter("c@1")],
        [small, EDGE],
        host_needs=HOST_NEEDS,
    )
    bases = {key: (a.node, a.application) for key, a in found.assignments.items()}
    assert bases["a@1"] == bases["c@1"] == ("head", "shoal-base-abc-float32-head")
    assert bases["b@1"] == ("edge-1", "shoal-base-def-float32-edge-1")
    assert (
        "3072 MiB of memory are asked for, and 928 are left"
        in dict(found.assignments["b@1"].rejected)["head"]
    )
    nowhere = decide([adapter("a@1", base_mb=5000)], [small], host_needs=HOST_NEEDS)
    assert "5120 MiB of memory are asked for" in dict(nowhere.unplaced["a@1"])["head"]


def test_adapters_that_fill_a_block_take_another_and_where_none_is_left_go_elsewhere() -> None:
    small = replace(HEAD, memory_mb=3328.0)
    many = [adapter(f"{letter}@1", adds_mb=100) for letter in "abcd"]
    found = where(decide(many, [small, EDGE], host_needs=HOST_NEEDS))
    # 3,300 MiB for three are 13 blocks; a fourth would take one more
    assert found == {"a@1": "head", "b@1": "head", "c@1": "head", "d@1": "edge-1"}


def test_where_no_node_of_the_tier_lives_another_takes_it_and_says_so() -> None:
    lost = node("edge-1", "edge", alive=False)
    placed = decide([demand(tier="edge")], (HEAD, lost, CLOUD), host_needs=HOST_NEEDS).assignments["t@1"]
    assert placed.node == "head" and placed.reasons[0] == "tier local instead of edge"
    assert dict(placed.rejected)["edge-1"] == "it is away"


def test_private_calls_never_go_to_a_cloud_node_whatever_is_wished_or_left() -> None:
    found = decide([demand(tier="cloud", private=True)], THREE, host_needs=HOST_NEEDS)
    assert where(found)["t@1"] != "cloud-1"
    assert "local-only" in dict(found.assignments["t@1"].rejected)["cloud-1"]
    nowhere = decide([demand(private=True)], (CLOUD,), host_needs=HOST_NEEDS)
    assert nowhere.assignments == {} and "local-only" in dict(nowhere.unplaced["t@1"])["cloud-1"]


def test_a_node_too_small_or_without_a_gpu_or_the_models_is_ruled_out_with_the_figures() -> None:
    small = node("small", "local", cpus=0.25)
    far = node("far", "local", has_models=False)
    found = decide([demand(gpus=1, small=False)], (small, far, HEAD), host_needs=HOST_NEEDS)
    reasons = dict(found.unplaced["t@1"])
    assert reasons["small"] == "0.5 CPUs are asked for, and 0.25 are left"
    assert reasons["far"] == "it cannot read the model folders"
    assert reasons["head"] == "1 GPUs are asked for, and 0 are left"
    with_gpu = node("gpu", "cloud", gpus=1)
    placed = decide([demand(gpus=0.5, small=False)], (HEAD, with_gpu), host_needs=HOST_NEEDS).assignments[
        "t@1"
    ]
    assert (placed.node, placed.application) == ("gpu", "shoal-v-t-1-gpu")


def test_a_gpus_node_is_left_to_those_that_need_one() -> None:
    nodes = (HEAD, node("gpu", "local", gpus=1))
    found = decide([demand("big@1", gpus=0.5, small=False), demand("small@1")], nodes, host_needs=HOST_NEEDS)
    assert where(found) == {"big@1": "gpu", "small@1": "head"}
    assert "GPU is for those" in dict(found.assignments["small@1"].rejected)["gpu"]


def test_what_runs_stays_unless_another_node_is_clearly_better() -> None:
    busy = (node("a", "local", load=0.2), node("b", "local", load=0.1))
    first = decide([demand()], busy, host_needs=HOST_NEEDS)
    assert where(first) == {"t@1": "b"}
    slightly = (node("a", "local", load=0.0), node("b", "local", load=0.2))
    kept = decide([demand()], slightly, host_needs=HOST_NEEDS, previous=first.assignments)
    assert where(kept) == {"t@1": "b"} and "runs there already" in kept.assignments["t@1"].reasons[-1]
    clearly = (node("a", "local", load=0.0), node("b", "local", load=0.9))
    assert where(decide([demand()], clearly, host_needs=HOST_NEEDS, previous=first.assignments)) == {
        "t@1": "a"
    }


def test_weights_say_what_counts() -> None:
    nodes = (node("dear", "cloud", load=0.0), node("busy", "local", load=0.8))
    assert where(decide([demand()], nodes, host_needs=HOST_NEEDS)) == {"t@1": "dear"}
    home = decide([demand()], nodes, host_needs=HOST_NEEDS, weights=Weights(latency=0.1))
    assert where(home) == {"t@1": "busy"}


def test_a_node_without_telemetry_can_be_used_and_says_that_it_has_none() -> None:
    placed = decide([demand()], (node("new", "local", load=None),), host_needs=HOST_NEEDS).assignments["t@1"]
    assert "no telemetry yet" in placed.reasons


TIERS = ["cloud", "edge", "local"]
NODES = st.lists(
    st.tuples(st.sampled_from(TIERS), st.floats(0, 4), st.floats(0, 2), st.booleans()), max_size=6
)
DEMANDS = st.lists(
    st.tuples(st.sampled_from(["", *TIERS]), st.booleans(), st.booleans(), st.floats(0, 1)), max_size=8
)


@given(nodes=NODES, demands=DEMANDS)
def test_no_decision_breaks_a_rule_whatever_the_nodes_and_demands(nodes: list, demands: list) -> None:  # type: ignore[type-arg]
    states = [
        node(f"n{n}", tier, cpus=cpus, load=load / 2, alive=alive)
        for n, (tier, cpus, load, alive) in enumerate(nodes)
    ]
    asked = [
        Demand(
            key=f"t{n}@1",
            name=f"t{n}",
            needs=Needs(cpus=cpus, memory_mb=10, tier=tier),
            small=small,
            private=private,
        )
        for n, (tier, small, private, cpus) in enumerate(demands)
    ]
    found = decide(asked, states, host_needs=HOST_NEEDS)
    assert set(found.assignments) | set(found.unplaced) == {d.key for d in asked}
    by_name = {state.name: state for state in states}
    for d in asked:
        if (placed := found.assignments.get(d.key)) is not None:
            assert by_name[placed.node].alive
            assert not (d.private and placed.tier == "cloud")
            assert {placed.node, *(name for name, _ in placed.rejected)} == set(by_name)
        else:
            assert {name for name, _ in found.unplaced[d.key]} == set(by_name)
    for state in states:
        own = sum(
            d.needs.cpus
            for d in asked
            if not d.small and (p := found.assignments.get(d.key)) and p.node == state.name
        )
        shares = any(d.small and (p := found.assignments.get(d.key)) and p.node == state.name for d in asked)
        assert own + (HOST_NEEDS.cpus if shares else 0) <= state.cpus + 1e-6
    assert Decision.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert decide(list(reversed(asked)), list(reversed(states)), host_needs=HOST_NEEDS) == found


@pytest.mark.parametrize("name", ["head", "10.0.0.1/Ä"])
def test_applications_have_plain_names(name: str) -> None:
    placed = decide([demand("Sort Tickets/é@3", small=False)], (node(name, "local"),), host_needs=HOST_NEEDS)
    application = placed.assignments["Sort Tickets/é@3"].application
    assert application.isascii() and application.replace("-", "").isalnum()
