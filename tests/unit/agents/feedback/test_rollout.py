from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.agents.contract.sequential import Wager, risk_factors
from shoal.agents.feedback.governance import MoveVersions
from shoal.agents.feedback.rollout import (
    Command,
    Compared,
    CountComparison,
    Policy,
    Rollout,
    Tally,
    VersionsRead,
)
from shoal.agents.feedback.watching import Said, WeighSaid
from shoal.agents.registry.records import TaskId, Version, VersionState

AUTO = Policy(mode="auto", min_comparisons=30)


def version(number: int, state: VersionState, task: str = "t") -> Version:
    return Version(
        task_id=TaskId(task),
        number=number,
        kind="classifier",
        state=state,
        folder=f"{task}/{number}",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        served_at=1.0 if state in (VersionState.SERVING, VersionState.RETIRED) else None,
    )


def moves(commands: list[Command]) -> list[tuple[str, VersionState]]:
    return [(m.version_key, m.after) for c in commands if isinstance(c, MoveVersions) for m in c.moves]


def feed(rollout: Rollout, key: str, agrees: bool, times: int) -> list[Command]:
    found: list[Command] = []
    for _ in range(times):
        found += rollout.handle(Compared(version_key=key, agrees=agrees))
    return found


def test_every_comparison_is_counted_under_the_stage_that_its_version_is_in() -> None:
    rollout = Rollout(Policy())
    rollout.handle(
        VersionsRead(
            epoch=7,
            versions=[version(1, VersionState.SERVING), version(2, VersionState.SHADOW)],
        )
    )
    right, wrong = (Wager().after(risk_factors(0.05, flag)) for flag in (False, True))
    assert rollout.handle(Compared(version_key="t@1", agrees=True)) == [
        CountComparison(version_key="t@1", stage="audit", agrees=True, bets=right)
    ]
    assert rollout.handle(Compared(version_key="t@2", agrees=False)) == [
        CountComparison(version_key="t@2", stage="shadow", agrees=False, bets=wrong)
    ]


def test_in_manual_mode_a_perfect_shadow_waits_for_its_owner() -> None:
    rollout = Rollout(Policy(mode="manual", min_comparisons=1))
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SHADOW)]))
    assert moves(feed(rollout, "t@1", True, 500)) == []


def test_in_auto_mode_a_shadow_becomes_a_canary_and_then_serves_in_the_old_ones_place() -> None:
    rollout = Rollout(AUTO)
    old, new = version(1, VersionState.SERVING), version(2, VersionState.SHADOW)
    rollout.handle(VersionsRead(epoch=7, versions=[old, new]))
    assert moves(feed(rollout, "t@2", True, 200)) == [("t@2", VersionState.CANARY)]
    rollout.handle(VersionsRead(epoch=7, versions=[old, replace(new, state=VersionState.CANARY)]))
    assert moves(feed(rollout, "t@2", True, 29)) == []
    assert moves(feed(rollout, "t@2", True, 1)) == [
        ("t@2", VersionState.SERVING),
        ("t@1", VersionState.RETIRED),
    ]


def test_a_version_moves_once_until_the_registry_has_been_read() -> None:
    rollout = Rollout(AUTO)
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SHADOW)]))
    assert len(moves(feed(rollout, "t@1", True, 500))) == 1


def test_few_comparisons_move_nothing_however_good_they_are() -> None:
    rollout = Rollout(Policy(mode="auto", min_comparisons=1))
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SHADOW)]))
    # 0 wrong of 58 does not refute 5% wrong at 95%
    assert moves(feed(rollout, "t@1", True, 58)) == []


@pytest.mark.parametrize("mode", ["manual", "auto"])
def test_a_serving_version_that_breaks_its_contract_is_paused_and_the_last_good_one_serves(mode: str) -> None:
    rollout = Rollout(Policy(mode="auto" if mode == "auto" else "manual"))
    rollout.handle(
        VersionsRead(
            epoch=7,
            versions=[
                version(1, VersionState.RETIRED),
                version(2, VersionState.RETIRED),
                version(3, VersionState.SERVING),
                version(4, VersionState.RETIRED),
            ],
        )
    )
    assert moves(feed(rollout, "t@3", False, 20)) == [
        ("t@3", VersionState.PAUSED),
        ("t@2", VersionState.SERVING),
    ]


def test_a_canary_that_breaks_its_contract_is_paused_and_the_serving_one_stays() -> None:
    rollout = Rollout(AUTO)
    rollout.handle(
        VersionsRead(epoch=7, versions=[version(1, VersionState.SERVING), version(2, VersionState.CANARY)])
    )
    assert moves(feed(rollout, "t@2", False, 20)) == [("t@2", VersionState.PAUSED)]


def test_a_restart_that_reads_the_counts_back_decides_as_if_nothing_had_happened() -> None:
    one = Rollout(AUTO)
    shadow = version(1, VersionState.SHADOW)
    one.handle(VersionsRead(epoch=7, versions=[shadow]))
    feed(one, "t@1", True, 60)
    tallies = {"t@1": {"shadow": one.tally("t@1", "shadow")}}
    two = Rollout(AUTO)
    two.handle(VersionsRead(epoch=7, versions=[shadow], tallies=tallies))
    assert feed(one, "t@1", True, 60) == feed(two, "t@1", True, 60)


def test_a_move_that_was_not_carried_out_before_a_restart_is_decided_again() -> None:
    rollout = Rollout(AUTO)
    commands = rollout.handle(
        VersionsRead(
            epoch=7, versions=[version(1, VersionState.SHADOW)], tallies={"t@1": {"shadow": Tally(300, 300)}}
        )
    )
    assert moves(commands) == [("t@1", VersionState.CANARY)]


def test_a_comparison_of_a_version_that_was_taken_back_meanwhile_is_ignored() -> None:
    rollout = Rollout(AUTO)
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.PAUSED)]))
    assert rollout.handle(Compared(version_key="t@1", agrees=False)) == []
    assert rollout.handle(Compared(version_key="unknown@1", agrees=False)) == []


def test_counts_that_the_registry_has_not_seen_yet_are_kept_when_it_is_read() -> None:
    rollout = Rollout(Policy())
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SHADOW)]))
    feed(rollout, "t@1", True, 5)
    rollout.handle(
        VersionsRead(
            epoch=7, versions=[version(1, VersionState.SHADOW)], tallies={"t@1": {"shadow": Tally(3, 3)}}
        )
    )
    assert (rollout.tally("t@1", "shadow").compared, rollout.tally("t@1", "shadow").agreed) == (5, 5)


def test_a_long_good_run_does_not_hide_that_a_serving_version_went_bad() -> None:
    rollout = Rollout(Policy())
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SERVING)]))
    assert moves(feed(rollout, "t@1", True, 2000)) == []
    gone_bad = [c for _ in range(20) for c in feed(rollout, "t@1", False, 1)]
    assert moves(gone_bad) == [("t@1", VersionState.PAUSED)]
    assert rollout.tally("t@1", "audit").wrong <= 20


def test_what_users_said_counts_into_the_same_test_and_is_told_as_a_reason() -> None:
    rollout = Rollout(Policy())
    rollout.handle(VersionsRead(epoch=7, versions=[version(1, VersionState.SERVING)]))
    feed(rollout, "t@1", True, 100)
    said = Said(given=900, contradicted=80, e_value=90.0)
    assert moves(rollout.handle(WeighSaid(version_key="t@1", said=said))) == []
    said = Said(given=900, contradicted=120, e_value=110.0)
    commands = rollout.handle(WeighSaid(version_key="t@1", said=said))
    assert moves(commands) == [("t@1", VersionState.PAUSED)]
    (move,) = commands
    assert isinstance(move, MoveVersions)
    assert move.moves[0].reason.startswith("contract broken: 0 of 100 answers differed")
    assert "120 of 900 given were contradicted (e-value 22" in move.moves[0].reason
    assert move.moves[0].reason.endswith("limit 20)")


def test_a_version_that_is_asked_again_begins_with_new_evidence() -> None:
    rollout = Rollout(Policy())
    serving, paused = version(1, VersionState.SERVING), version(1, VersionState.PAUSED)
    rollout.handle(VersionsRead(epoch=7, versions=[serving]))
    assert moves(feed(rollout, "t@1", False, 20)) == [("t@1", VersionState.PAUSED)]
    rollout.handle(VersionsRead(epoch=8, versions=[paused]))
    assert moves(rollout.handle(VersionsRead(epoch=9, versions=[serving]))) == []
    assert rollout.tally("t@1", "audit") == Tally()
