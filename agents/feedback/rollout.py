"""The roll-out: when the evidence on a version is enough to move it on, or to take it back. A pure state machine.

`handle(event) -> [commands]`. It weighs, with the tests of `agents/contract/sequential.py`, which may be looked at after every comparison;
`governance.py` decides where a version goes. Evidence is a tally for each version and stage, so a restart that reads the tallies back
has lost nothing. A comparison counts only if the version's confidence reached its threshold: the contract is about answers given.
Every time a version begins to be asked its evidence begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from shoal.agents.contract.sequential import RiskTest, Wager, risk_factors, shows_contract
from shoal.agents.feedback import governance
from shoal.agents.feedback.governance import ContractRefuted, ContractShown, Governance, MoveVersions
from shoal.agents.feedback.watching import Said, WeighSaid
from shoal.agents.registry.records import Version, VersionState

#: the count of audits of a serving version stands under this name
_STAGES: Mapping[VersionState, str] = {
    VersionState.SHADOW: "shadow",
    VersionState.CANARY: "canary",
    VersionState.SERVING: "audit",
}
#: begins the reason of a version that was taken back
BROKEN: Final = "contract broken: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`manual`: a shadow waits for the owner. A violated contract takes a version back in either mode."""

    mode: Literal["manual", "auto"] = "manual"
    #: comparisons that a version needs in shadow, and again in canary
    min_comparisons: int = 30


@dataclass(frozen=True, slots=True)
class Tally:
    """Comparisons of a version at one stage, how many of them agreed, and the bets that its contract is broken there."""

    compared: int = 0
    agreed: int = 0
    bets: Wager = field(default_factory=Wager)

    @property
    def wrong(self) -> int:
        return self.compared - self.agreed

    def after(self, agrees: bool, alpha: float) -> Tally:
        """With one comparison more."""
        bets = self.bets.after(risk_factors(alpha, not agrees))
        return Tally(self.compared + 1, self.agreed + int(agrees), bets)


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


Event: TypeAlias = VersionsRead | Compared | WeighSaid


@dataclass(frozen=True, slots=True, kw_only=True)
class CountComparison:
    """Add one comparison to the durable counts. `bets`: as they now stand."""

    version_key: str
    stage: str
    agrees: bool
    bets: Wager


Command: TypeAlias = CountComparison | MoveVersions


class Rollout:
    """The states of all versions and the counts behind them, as `VersionsRead` told them last and comparisons since."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._versions: dict[str, Version] = {}
        #: version key -> stage -> counts, never behind the durable ones
        self._tallies: dict[str, dict[str, Tally]] = {}
        #: what users said of a version's answers
        self._said: dict[str, Said] = {}
        self._governance = Governance()

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, VersionsRead):
            return self._read(event)
        if isinstance(event, WeighSaid):
            return self._hear(event)
        return self._compared(event)

    def tally(self, key: str, stage: str) -> Tally:
        """The counts of a version at a stage."""
        return self._tallies.get(key, {}).get(stage, Tally())

    def _read(self, event: VersionsRead) -> list[Command]:
        for key, version in self._versions.items():
            if version.state not in _STAGES:  # should it be asked again, it begins anew
                self._tallies.pop(key, None)
                self._said.pop(key, None)
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
        tally = stages[stage] = stages.get(stage, Tally()).after(event.agrees, version.alpha)
        count = CountComparison(version_key=version.key, stage=stage, agrees=event.agrees, bets=tally.bets)
        return [count, *self._decide(version)]

    def _hear(self, event: WeighSaid) -> list[Command]:
        self._said[event.version_key] = event.said
        version = self._versions.get(event.version_key)
        return [] if version is None else [*self._decide(version)]

    def _decide(self, version: Version) -> list[MoveVersions]:
        """What the counts of a version show, if they show anything."""
        if version.state not in _STAGES or self._governance.standing(version.key) is None:
            return []
        here = self.tally(version.key, _STAGES[version.state])
        said = self._said.get(version.key, Said())
        test = RiskTest(audits=here.bets, feedback=said.e_value)
        if test.breaks(version.delta):
            why = f"{BROKEN}{here.wrong} of {here.compared} answers differed from the generalist's"
            if said.contradicted:
                why += f", {said.contradicted} of {said.given} given were contradicted"
            why += f" (e-value {min(test.e_value, 1e9):.4g}, limit {1 / version.delta:.4g})"
            return self._governance.handle(ContractRefuted(version_key=version.key, reason=why))
        if self._policy.mode != "auto" or version.state is VersionState.SERVING:
            return []
        both = [self.tally(version.key, stage) for stage in ("shadow", "canary")]
        agreed, compared = sum(t.agreed for t in both), sum(t.compared for t in both)
        enough = here.compared >= self._policy.min_comparisons
        if not enough or not shows_contract(compared - agreed, agreed, version.alpha, version.delta):
            return []
        why = f"{agreed} of {compared} agreed with the generalist"
        return self._governance.handle(ContractShown(version_key=version.key, reason=why))
