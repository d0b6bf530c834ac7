"""The roll-out: when the evidence on a version is enough to move it on, or to take it back. A pure state machine.

`handle(event) -> [commands]`. It weighs; `governance.py` decides where a version goes. Evidence is a pair of counts for each version and stage, so a restart that reads the counts back
has lost nothing. A comparison counts only if the version's confidence reached its threshold: the contract is about answers given.

Both tests may be looked at after every comparison, because they bet instead of counting (Ville's inequality; Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", 2024): capital that a fair or losing game multiplies by
1 / delta happens with a chance of at most delta, however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from shoal.agents.feedback import governance
from shoal.agents.feedback.governance import ContractRefuted, ContractShown, Governance, MoveVersions
from shoal.agents.registry.records import Version, VersionState

#: shares of the largest bet that keeps the capital positive; their capitals are averaged
_BETS = (0.1, 0.3, 0.6, 0.95)
#: the count of audits of a serving version stands under this name
_STAGES: Mapping[VersionState, str] = {
    VersionState.SHADOW: "shadow",
    VersionState.CANARY: "canary",
    VersionState.SERVING: "audit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`manual`: a shadow waits for the owner. A violated contract takes a version back in either mode."""

    mode: Literal["manual", "auto"] = "manual"
    #: comparisons that a version needs in shadow, and again in canary
    min_comparisons: int = 30


@dataclass(frozen=True, slots=True)
class Tally:
    """Comparisons of a version at one stage, and how many of them agreed."""

    compared: int = 0
    agreed: int = 0

    @property
    def wrong(self) -> int:
        return self.compared - self.agreed

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.compared + other.compared, self.agreed + other.agreed)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsRead:
    """The registry was read: all versions, and the counts of each (version key -> stage -> tally). `epoch`: from before it was read."""

    epoch: int
    versions: Sequence[Version]
    tallies: Mapping[str, Mapping[str, Tally]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A version's answer, sure enough to be given, was compared with the generalist's."""

    version_key: str
    agrees: bool


Event: TypeAlias = VersionsRead | Compared


@dataclass(frozen=True, slots=True, kw_only=True)
class CountComparison:
    """Add one comparison to the durable counts."""

    version_key: str
    stage: str
    agrees: bool


Command: TypeAlias = CountComparison | MoveVersions


def _capital(wrong: int, right: int, gain_wrong: float, gain_right: float) -> float:
    """Log of the mean capital after bets whose unit gains are given; both gains are above -1 for a full bet."""
    logs = [wrong * math.log1p(bet * gain_wrong) + right * math.log1p(bet * gain_right) for bet in _BETS]
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))


def keeps_contract(tally: Tally, alpha: float, delta: float) -> bool:
    """Whether the counts refute "at least alpha of the answers are wrong" at level delta."""
    # the largest bet against wrong answers loses everything at the first wrong one: 1 / (1 - alpha)
    largest = 1 / (1 - alpha)
    return _capital(tally.wrong, tally.agreed, -largest * (1 - alpha), largest * alpha) >= -math.log(delta)


def breaks_contract(tally: Tally, alpha: float, delta: float) -> bool:
    """Whether the counts refute "at most alpha of the answers are wrong" at level delta."""
    largest = 1 / alpha
    return _capital(tally.wrong, tally.agreed, largest * (1 - alpha), -largest * alpha) >= -math.log(delta)


class Rollout:
    """The states of all versions and the counts behind them, as `VersionsRead` told them last and comparisons since."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._versions: dict[str, Version] = {}
        #: version key -> stage -> counts, never behind the durable ones
        self._tallies: dict[str, dict[str, Tally]] = {}
        self._governance = Governance()

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, VersionsRead):
            return self._read(event)
        return self._compared(event)

    def tally(self, key: str, stage: str) -> Tally:
        """The counts of a version at a stage."""
        return self._tallies.get(key, {}).get(stage, Tally())

    def _read(self, event: VersionsRead) -> list[Command]:
        self._versions = {v.key: v for v in event.versions}
        self._governance.handle(governance.VersionsRead(epoch=event.epoch, versions=event.versions))
        for key, stages in event.tallies.items():
            mine = self._tallies.setdefault(key, {})
            for stage, tally in stages.items():
                if tally.compared > mine.get(stage, Tally()).compared:
                    mine[stage] = tally
        commands: list[Command] = []
        for version in event.versions:
            commands += self._decide(version)
        return commands

    def _compared(self, event: Compared) -> list[Command]:
        version = self._versions.get(event.version_key)
        if version is None or version.state not in _STAGES:
            return []  # it was taken back meanwhile
        stage = _STAGES[version.state]
        stages = self._tallies.setdefault(version.key, {})
        stages[stage] = stages.get(stage, Tally()) + Tally(1, int(event.agrees))
        count = CountComparison(version_key=version.key, stage=stage, agrees=event.agrees)
        return [count, *self._decide(version)]

    def _decide(self, version: Version) -> list[MoveVersions]:
        """What the counts of a version show, if they show anything."""
        if version.state not in _STAGES or self._governance.standing(version.key) is None:
            return []
        here = self.tally(version.key, _STAGES[version.state])
        if breaks_contract(here, version.alpha, version.delta):
            why = f"contract broken: {here.wrong} of {here.compared} answers differed from the generalist's"
            return self._governance.handle(ContractRefuted(version_key=version.key, reason=why))
        if self._policy.mode != "auto" or version.state is VersionState.SERVING:
            return []
        evidence = self.tally(version.key, "shadow") + self.tally(version.key, "canary")
        enough = here.compared >= self._policy.min_comparisons
        if not enough or not keeps_contract(evidence, version.alpha, version.delta):
            return []
        why = f"{evidence.agreed} of {evidence.compared} agreed with the generalist"
        return self._governance.handle(ContractShown(version_key=version.key, reason=why))
