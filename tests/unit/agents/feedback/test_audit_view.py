from __future__ import annotations

import pytest

from shoal.agents.contract.drift import InputWatch, bin_of, histogram
from shoal.agents.contract.sequential import RiskTest, Wager, feedback_e_value, risk_factors
from shoal.agents.feedback.audit_view import audit_of
from shoal.agents.feedback.watching import Watch
from shoal.agents.registry.evidence import Evidence, Stage
from shoal.agents.registry.records import TaskId, Version, VersionState

CALIBRATION = histogram([0.9] * 100)


def version(state: VersionState = VersionState.SERVING, *, watched: bool = True) -> Version:
    return Version(
        task_id=TaskId("t"),
        number=1,
        kind="classifier",
        state=state,
        folder="t/1",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        evidence={"calibration": {"confidences": CALIBRATION}} if watched else {},
    )


def test_a_version_that_nobody_asked_yet_says_so() -> None:
    view = audit_of(version(), Evidence())
    assert view.is_empty and view.e_value == 1
    assert view.lines() == ["nothing seen of it yet"]


def test_what_is_shown_is_what_the_test_decides_by() -> None:
    bets = Wager().after(risk_factors(0.05, True)).after(risk_factors(0.05, True))
    watch = Watch(blocks=((10.0, 30),))
    evidence = Evidence(
        stages={
            "audit": Stage(compared=2, agreed=0, bets=bets.to_dict()),
            "shadow": Stage(compared=9, agreed=9),
        },
        watch=watch.to_dict(),
        contradicted=(11.0, 12.0),
    )
    view = audit_of(version(), evidence)
    expected = RiskTest(audits=bets, feedback=feedback_e_value(watch.against((11.0, 12.0)), 0.05))
    assert view.e_value == pytest.approx(expected.e_value)
    assert (view.stage, view.compared, view.wrong) == ("audit", 2, 2)
    assert (view.given, view.contradicted, view.limit) == (30, 2, pytest.approx(20))
    assert "2 answers compared since it serves, 2 differed" in view.lines()[0]
    assert "against a limit of 20" in view.lines()[2]
    assert audit_of(version(VersionState.SHADOW), evidence).compared == 9


def test_drift_is_shown_with_when_and_that_an_older_version_is_not_watched() -> None:
    inputs = InputWatch().after(CALIBRATION, [bin_of(0.1)] * 100, key="k", at=1_700_000_000.0)
    evidence = Evidence(watch=Watch(inputs=inputs).to_dict())
    view = audit_of(version(), evidence)
    assert (view.drift, view.inputs, view.distance) == ("drifted", 100, 1.0)
    assert "its inputs drifted: seen 2023-11-14 22:13 UTC" in view.lines()[-1]
    old = audit_of(version(watched=False), Evidence(stages={"audit": Stage(compared=3, agreed=3)}))
    assert old.drift == "unwatched"
    assert "not watched" in old.lines()[-1]
