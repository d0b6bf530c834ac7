"""Which way a version may go, and at whose word: one table. Pure; the database and all who decide check against it.

    training -> shadow -> canary -> serving -> retired
             -> rejected         any of the three -> paused

No state is skipped on evidence alone; the owner may. `REJECTED` is the gate's no, and final.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from shoal.agents.registry.records import VersionState
from shoal.errors import Conflict


class Asker(StrEnum):
    """Who asks for a move."""

    #: a run that trains, begins or gives up
    LEARNING = "learning"
    #: the gate's verdict on a version that was trained
    GATE = "gate"
    #: comparisons in shadow and canary that show the contract to hold
    EVIDENCE = "evidence"
    OWNER = "owner"
    #: comparisons that show the contract to be broken
    AUDIT = "audit"
    #: the version cannot be loaded as it is
    LOADING = "loading"


#: None: there is no such version yet, or no more
Place: TypeAlias = VersionState | None

_S = VersionState
_A = Asker
#: (from, to) -> who may ask for it
TRANSITIONS: Final[Mapping[tuple[Place, Place], frozenset[Asker]]] = {
    (None, _S.TRAINING): frozenset({_A.LEARNING}),
    (_S.TRAINING, None): frozenset({_A.LEARNING}),
    (_S.TRAINING, _S.SHADOW): frozenset({_A.GATE}),
    (_S.TRAINING, _S.REJECTED): frozenset({_A.GATE}),
    (_S.SHADOW, _S.CANARY): frozenset({_A.EVIDENCE, _A.OWNER}),
    (_S.SHADOW, _S.SERVING): frozenset({_A.OWNER}),
    (_S.CANARY, _S.SERVING): frozenset({_A.EVIDENCE, _A.OWNER}),
    (_S.SHADOW, _S.PAUSED): frozenset({_A.OWNER, _A.AUDIT, _A.LOADING}),
    (_S.CANARY, _S.PAUSED): frozenset({_A.OWNER, _A.AUDIT, _A.LOADING}),
    (_S.SERVING, _S.PAUSED): frozenset({_A.OWNER, _A.AUDIT, _A.LOADING}),
    # a newer one was learnt, or took its place
    (_S.SHADOW, _S.RETIRED): frozenset({_A.GATE, _A.OWNER}),
    (_S.CANARY, _S.RETIRED): frozenset({_A.EVIDENCE, _A.OWNER}),
    (_S.SERVING, _S.RETIRED): frozenset({_A.EVIDENCE, _A.OWNER}),
    (_S.PAUSED, _S.RETIRED): frozenset({_A.OWNER}),
    # the way back
    (_S.RETIRED, _S.SERVING): frozenset({_A.OWNER, _A.AUDIT, _A.LOADING}),
    (_S.PAUSED, _S.SERVING): frozenset({_A.OWNER}),
    (_S.PAUSED, _S.SHADOW): frozenset({_A.OWNER}),
    (_S.RETIRED, _S.SHADOW): frozenset({_A.OWNER}),
    # it was to be kept warm for a rollback, and cannot
    (_S.RETIRED, _S.PAUSED): frozenset({_A.LOADING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One version's step. `before` is where it stood when it was decided: it is carried out only if it still does."""

    version_key: str
    before: VersionState
    after: VersionState
    reason: str


def check_move(version_key: str, before: Place, after: Place, asker: Asker) -> None:
    """Raises Conflict where the table does not have it."""
    allowed = TRANSITIONS.get((before, after), frozenset())
    if asker in allowed:
        return
    asked = f"{version_key} cannot go from {before or 'nowhere'} to {after or 'nowhere'}"
    if allowed:
        raise Conflict(
            f"{asked} at the word of {asker}: only of {' or '.join(sorted(allowed))}.",
            remedy=f"shoal specialists promote {version_key}" if Asker.OWNER in allowed else "",
        )
    ways = [str(to or "nowhere") for (frm, to), who in TRANSITIONS.items() if frm == before and asker in who]
    raise Conflict(
        f"{asked}: the way is training, shadow, canary, serving.",
        remedy=f"From {before or 'nowhere'} {asker} may ask for {', '.join(ways) or 'nothing'}.",
    )


def history_faults(events: Sequence[Mapping[str, Any]], states: Mapping[str, VersionState]) -> list[str]:
    """What in a registry's whole history is against the table, in words; empty where all is well.

    Args:
        events: as `versions.history` gives them, oldest first, of a registry that no version was removed from.
        states: version key -> where it stands now.

    Looks for: a step that does not begin where the last one ended; one that the table does not have, or not for who asked; two verdicts
    in one epoch; two versions of a task that serve at once; a version that stands elsewhere than its history says.
    """
    faults = []
    at: dict[str, str] = {}
    epochs: dict[int, tuple[str, str]] = {}
    for number, event in enumerate(events):
        key, before, after, asker = (str(event[name]) for name in ("version", "from", "to", "asker"))
        task = key.rpartition("@")[0]
        step = f"{key} {before or 'nowhere'} -> {after or 'nowhere'} at epoch {event['epoch']}"
        if at.get(key, "") != before:
            faults.append(f"{step}: but it was {at.get(key) or 'nowhere'}")
        if before and before == after:
            continue  # a remark, which moves nothing
        allowed = TRANSITIONS.get((_place(before), _place(after)), frozenset())
        born = not before and after != VersionState.TRAINING  # it was trained elsewhere
        if not born and asker not in allowed:
            faults.append(f"{step}: not at the word of {asker}")
        verdict = epochs.setdefault(event["epoch"], (task, asker))
        if verdict != (task, asker):
            faults.append(f"{step}: {verdict} had its verdict in this epoch")
        at[key] = after
        last_of_epoch = number + 1 == len(events) or events[number + 1]["epoch"] != event["epoch"]
        serving = [k for k, state in at.items() if state == "serving" and k.rpartition("@")[0] == task]
        if last_of_epoch and len(serving) > 1:
            faults.append(f"{step}: {' and '.join(serving)} serve at once")
    known = {key: state for key, state in at.items() if state not in ("", VersionState.TRAINING)}
    if known != dict(states):
        faults.append(f"the versions stand at {dict(states)}, but their history says {known}")
    return faults


def _place(name: str) -> Place:
    return VersionState(name) if name else None
