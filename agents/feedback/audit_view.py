"""How the audit of a version stands, as people, `--json`, the report and metrics show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from shoal.agents.contract.drift import LEVEL, calibration_of
from shoal.agents.contract.sequential import RiskTest, Wager, feedback_e_value
from shoal.agents.feedback.watching import Watch
from shoal.agents.registry.evidence import Evidence, Stage
from shoal.agents.registry.records import Version, VersionState

#: `unwatched`: its calibration's confidences were not kept, so there is nothing to compare with
Drift: TypeAlias = Literal["unwatched", "none seen", "drifted"]
_UNWATCHED: Final = "drift of its inputs is not watched: it was made before that, or on too few calls"
_STAGES: Final[Mapping[VersionState, str]] = {
    VersionState.SHADOW: "shadow",
    VersionState.CANARY: "canary",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """One version's audit since it last began to be asked.

    Attributes:
        stage: whose comparisons these are: `shadow`, `canary` or `audit` (of a serving version).
        compared, wrong: answers put to the generalist too, and those that differed.
        given, contradicted: answers that went to clients, and those that somebody contradicted.
        e_value, limit: of "at most alpha are wrong"; at the limit the version is taken back.
        inputs: calls whose confidence was watched.
        drift_e_value, drift_limit, distance: of "the inputs are like the calibration's"; largest difference of the distributions.
        drifted_at: seconds since the epoch; None where no drift was seen.
    """

    stage: str
    compared: int
    wrong: int
    given: int
    contradicted: int
    e_value: float
    limit: float
    drift: Drift
    inputs: int
    drift_e_value: float
    drift_limit: float
    distance: float
    drifted_at: float | None

    @property
    def is_empty(self) -> bool:
        return not (self.compared or self.given or self.inputs)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        if self.is_empty:
            return ["nothing seen of it yet", *([_UNWATCHED] if self.drift == "unwatched" else [])]
        where = {"shadow": "in shadow", "canary": "as a canary"}.get(self.stage, "since it serves")
        lines = [
            f"{self.compared:,} answers compared {where}, {self.wrong:,} differed from the generalist's",
            f"{self.given:,} answers given, {self.contradicted:,} contradicted by feedback",
            f"e-value {_number(self.e_value)} against a limit of {_number(self.limit)}; at the limit it is taken back",
        ]
        if self.drift == "unwatched":
            lines.append(_UNWATCHED)
        elif self.drifted_at is not None:
            when = datetime.fromtimestamp(self.drifted_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
            lines.append(f"its inputs drifted: seen {when} ({self._inputs()})")
        else:
            lines.append(f"no drift of its inputs ({self._inputs()})")
        return lines

    def _inputs(self) -> str:
        return (
            f"{self.inputs:,} calls, distance {self.distance:.2f}, e-value {_number(self.drift_e_value)} "
            f"against {_number(self.drift_limit)}"
        )


def audit_of(version: Version, evidence: Evidence) -> AuditView:
    """What the registry knows of a version's audit."""
    name = _STAGES.get(version.state, "audit")
    stage = evidence.stages.get(name, Stage(compared=0, agreed=0))
    watch = Watch.from_dict(evidence.watch)
    blocks = watch.against(evidence.contradicted)
    test = RiskTest(audits=Wager.from_dict(stage.bets), feedback=feedback_e_value(blocks, version.alpha))
    calibration = calibration_of(version.evidence)
    drifted = watch.inputs.drifted_at is not None
    return AuditView(
        stage=name,
        compared=stage.compared,
        wrong=stage.compared - stage.agreed,
        given=watch.given,
        contradicted=sum(block.contradicted for block in blocks),
        e_value=test.e_value,
        limit=1 / version.delta,
        drift="unwatched" if calibration is None else "drifted" if drifted else "none seen",
        inputs=watch.inputs.count,
        drift_e_value=watch.inputs.wager.e_value,
        drift_limit=1 / LEVEL,
        distance=0.0 if calibration is None else watch.inputs.distance(calibration),
        drifted_at=watch.inputs.drifted_at,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
