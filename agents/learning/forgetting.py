"""What learning still knows of calls that were erased: which versions were trained on them, and what of it goes at once.

A version that may answer, or be gone back to, stays until a new one takes its place, and is said to know them; a version that was
refused, and what an unfinished training has kept, go.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from shoal.agents.learning.learnt_calls import read_learnt_calls
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.traces.erased import count_erased, read_erased
from shoal.errors import CorruptModel
from shoal.home import Home


def knowing_erased(home: Home, versions: Iterable[Version]) -> dict[str, int]:
    """By version key, how many of the calls that a version was trained on are erased since; only where there are any.

    A folder that is gone or altered says nothing here; loading it is refused by name.
    """
    erased = read_erased(home.traces)
    found: dict[str, int] = {}
    for version in versions if len(erased) else ():
        try:
            count = count_erased(read_learnt_calls(home.models / version.folder), erased)
        except CorruptModel:
            continue
        if count:
            found[version.key] = count
    return found


def forget_erased(home: Home, versions: Iterable[Version], *, learning: bool) -> list[str]:
    """Remove refused versions and unfinished trainings that know erased calls. Returns what went: version keys and folder names.

    Args:
        learning: a run is under way. What it keeps is left to it: it goes when the run registers its version, which is then
            said to know the calls.
    """
    refused = [v for v in versions if v.state is VersionState.REJECTED]
    known = knowing_erased(home, refused)
    gone = []
    for version in refused:
        if version.key in known:
            shutil.rmtree(home.models / version.folder, ignore_errors=True)
            gone.append(version.key)
    return gone if learning else [*gone, *_forget_trainings(home)]


def _forget_trainings(home: Home) -> list[str]:
    erased = read_erased(home.traces)
    gone = []
    for folder in sorted((home.work / "training").glob("*")) if len(erased) else ():
        try:
            learnt = read_learnt_calls(folder)
            clean = len(learnt) > 0 and not count_erased(learnt, erased)
        except CorruptModel:
            clean = False
        # one that does not say what it was made from may know anything
        if not clean:
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder.name)
    return gone
