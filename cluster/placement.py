"""Which specialist runs on which node, and why there and not elsewhere. Pure: snapshots in, a decision out.

What a node must be (alive, able to read the models, large enough, not in the cloud for private data) rules it out; what it should
be (of the tier wished for, idle, in use already, cheap) makes its score. The lowest score wins; what runs stays where it is
unless another node is clearly better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from shoal.cluster.needs import Needs
from shoal.nodes.telemetry import Reading

#: the application that small specialists share on a node
HOST: Final = "shoal-host"
#: the application that adapters of one base share on a node
BASE_HOST: Final = "shoal-base"
#: MiB by which such an application asks for more as it holds more: a change of what it asks for restarts its replica
_BLOCK_MB = 256.0
#: a node must be better by this much before something is moved to it
_MARGIN = 0.25
#: how dear a node of a tier is, as a share; where the owner names no prices
_TIER_COST: Final = {"local": 0.0, "edge": 0.1, "cloud": 0.3}
#: a wished tier outweighs everything else
_OTHER_TIER = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One specialist version that should run.

    Attributes:
        key: `<task id>@<number>`.
        name: for people.
        needs: `tier` is a wish. Of one that shares a base, the memory is what it adds.
        small: it shares its node's host.
        base: what it shares with others of its host beyond the process: an adapter's pretrained model; empty for nothing.
        base_mb: MiB of a process that holds the base and nothing else.
        private: some of its task's calls are `local-only`: never on a cloud node.
        why_tier: why it wishes its tier, for people.
    """

    key: str
    name: str
    needs: Needs
    small: bool = True
    base: str = ""
    base_mb: float = 0.0
    private: bool = False
    why_tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node at one moment.

    Attributes:
        id: Ray's.
        simulated: a further raylet on one machine, for trying things out.
        head: where the data folder, the gateway and the actors are.
        has_models: it can read the model folders.
        reading: telemetry; None where its monitor said nothing yet.
    """

    id: str
    name: str
    tier: str
    alive: bool = True
    simulated: bool = False
    head: bool = False
    has_models: bool = True
    cpus: float = 0.0
    gpus: float = 0.0
    memory_mb: float = 0.0
    reading: Reading | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each part of the score counts: a busy node, another node in use, a dear tier."""

    latency: float = 1.0
    energy: float = 1.0
    cost: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Where a specialist runs, and why.

    Attributes:
        application: the Serve application that holds it.
        score: lower is better; None where there was no choice to make.
        reasons: for this node, in words.
        rejected: (node, reason) for each other node.
    """

    key: str
    name: str
    node: str
    tier: str
    application: str
    score: float
    reasons: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Assignment:
        return cls(
            **{
                **data,
                "reasons": tuple(data["reasons"]),
                "rejected": tuple((node, reason) for node, reason in data["rejected"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`unplaced`: key -> (node, reason) for each node, of what can run nowhere."""

    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    unplaced: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "assignments": {key: asdict(found) for key, found in self.assignments.items()},
            "unplaced": {key: [list(pair) for pair in reasons] for key, reasons in self.unplaced.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        return cls(
            assignments={key: Assignment.from_dict(a) for key, a in data["assignments"].items()},
            unplaced={
                key: tuple((node, reason) for node, reason in pairs)
                for key, pairs in data["unplaced"].items()
            },
        )


def decide(
    demands: Sequence[Demand],
    nodes: Sequence[NodeState],
    *,
    host_needs: Needs,
    previous: Mapping[str, Assignment] | None = None,
    weights: Weights | None = None,
) -> Decision:
    """Place every demand.

    Args:
        host_needs: what a node's shared host asks for, once.
        previous: where things run now.
    """
    placing = _Placing(nodes, host_needs, previous or {}, weights or Weights())
    # the largest first: they have the fewest places; among equals by key, so that a rerun decides alike
    order = sorted(demands, key=lambda d: (-d.needs.gpus, -_weight_mb(d), d.key))
    for demand in order:
        placing.place(demand)
    return Decision(assignments=placing.assignments, unplaced=placing.unplaced)


def host_asks(held: Sequence[Demand], host_needs: Needs) -> Needs:
    """What a host asks for that holds these small demands: of all of them together nothing more than an empty one does, unless they share
    a base, which it then holds once, and the adapters beside it."""
    bases = [demand.base_mb for demand in held if demand.base]
    if not bases:
        return host_needs
    memory_mb = max(bases) + sum(demand.needs.memory_mb for demand in held)
    return replace(host_needs, memory_mb=math.ceil(memory_mb / _BLOCK_MB) * _BLOCK_MB)


def _weight_mb(demand: Demand) -> float:
    return demand.base_mb if demand.base else 0.0 if demand.small else demand.needs.memory_mb


class _Placing:
    """One decision under way: what is placed takes room from what comes after it."""

    def __init__(
        self,
        nodes: Sequence[NodeState],
        host_needs: Needs,
        previous: Mapping[str, Assignment],
        weights: Weights,
    ) -> None:
        self._nodes = sorted(nodes, key=lambda node: node.name)
        self._host_needs = host_needs
        self._previous = previous
        self._weights = weights
        self._cpus = {node.name: node.cpus for node in nodes}
        self._gpus = {node.name: node.gpus for node in nodes}
        self._memory = {node.name: node.memory_mb for node in nodes}
        #: application -> what it holds so far, of small demands
        self._held: dict[str, list[Demand]] = {}
        self._used: set[str] = set()
        self.assignments: dict[str, Assignment] = {}
        self.unplaced: dict[str, tuple[tuple[str, str], ...]] = {}

    def place(self, demand: Demand) -> None:
        rejected: dict[str, str] = {}
        scores: dict[str, tuple[float, tuple[str, ...]]] = {}
        for node in self._nodes:
            if reason := self._ruled_out(demand, node):
                rejected[node.name] = reason
            else:
                scores[node.name] = self._score(demand, node)
        if not scores:
            self.unplaced[demand.key] = tuple(rejected.items())
            return
        best = min(scores, key=lambda name: (scores[name][0], name))
        now = self._previous.get(demand.key)
        reasons: tuple[str, ...] = ()
        stays = now is not None and now.node in scores and scores[now.node][0] <= scores[best][0] + _MARGIN
        if now is not None and stays and now.node != best:
            best = now.node
            reasons = ("it runs there already, and no other node is clearly better",)
        score, why = scores[best]
        for name, (other, words) in scores.items():
            if name != best:
                rejected[name] = f"score {other:.2f} against {score:.2f}: {', '.join(words)}"
        node = next(node for node in self._nodes if node.name == best)
        self._take(demand, node)
        self.assignments[demand.key] = Assignment(
            key=demand.key,
            name=demand.name,
            node=node.name,
            tier=node.tier,
            application=application_name(demand, node.name),
            score=round(score, 4),
            reasons=(*why, *reasons),
            rejected=tuple(sorted(rejected.items())),
        )

    def _asks(self, demand: Demand, node: NodeState) -> Needs:
        """What is asked for more than before, if the demand goes there."""
        if not demand.small:
            return demand.needs
        held = self._held.get(application_name(demand, node.name), [])
        if not held:
            return host_asks([demand], self._host_needs)
        now, then = (host_asks(some, self._host_needs) for some in (held, [*held, demand]))
        return Needs(cpus=0, gpus=0, memory_mb=then.memory_mb - now.memory_mb)

    def _ruled_out(self, demand: Demand, node: NodeState) -> str:
        if not node.alive:
            return "it is away"
        if not node.has_models:
            return "it cannot read the model folders"
        if demand.private and node.tier == "cloud":
            return "some of the task's calls are `local-only`, and it is a cloud node"
        asks = self._asks(demand, node)
        for what, need, there in (
            ("CPUs", asks.cpus, self._cpus[node.name]),
            ("GPUs", asks.gpus, self._gpus[node.name]),
            ("MiB of memory", asks.memory_mb, self._memory[node.name]),
        ):
            if need > there + 1e-9:
                return f"{need:g} {what} are asked for, and {there:g} are left"
        return ""

    def _score(self, demand: Demand, node: NodeState) -> tuple[float, tuple[str, ...]]:
        words = []
        score = 0.0
        if demand.needs.tier:
            if node.tier == demand.needs.tier:
                words.append(f"tier {node.tier}, {demand.why_tier or 'as wished'}")
            else:
                score += _OTHER_TIER
                words.append(f"tier {node.tier} instead of {demand.needs.tier}")
        load = 0.0 if node.reading is None else busy(node.reading)
        score += self._weights.latency * load
        words.append(f"{load:.0%} busy" if node.reading is not None else "no telemetry yet")
        in_use = node.name in self._used
        score += self._weights.energy * (0.0 if in_use else 0.5)
        words.append("in use already" if in_use else "not in use yet")
        if demand.base:
            there = application_name(demand, node.name) in self._held
            score += self._weights.energy * (0.0 if there else 0.5)
            words.append("its base is there already" if there else "its base is not there yet")
        if node.gpus and not demand.needs.gpus:
            score += self._weights.energy
            words.append("its GPU is for those that need one")
        dear = _TIER_COST.get(node.tier, max(_TIER_COST.values()))
        score += self._weights.cost * dear
        words.append(f"cost {dear:g}")
        return score, tuple(words)

    def _take(self, demand: Demand, node: NodeState) -> None:
        asks = self._asks(demand, node)
        self._cpus[node.name] -= asks.cpus
        self._gpus[node.name] -= asks.gpus
        self._memory[node.name] -= asks.memory_mb
        self._used.add(node.name)
        if demand.small:
            self._held.setdefault(application_name(demand, node.name), []).append(demand)


def busy(reading: Reading) -> float:
    """How busy a machine is, 0 to 1: its load over the last minute, because a moment says little."""
    return min(1.0, reading.host.load_1m / max(1, reading.host.cpus))


def application_name(demand: Demand, node: str) -> str:
    """The application that holds a demand on a node."""
    if demand.small and demand.base:
        return f"{BASE_HOST}-{_slug(demand.base)}-{_slug(node)}"
    if demand.small:
        return f"{HOST}-{_slug(node)}"
    task, _, number = demand.key.rpartition("@")
    return f"shoal-v-{_slug(task)[:60]}-{number}-{_slug(node)}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
