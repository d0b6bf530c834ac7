"""Opens what a data folder holds, for the commands that need no running site."""

from __future__ import annotations

import time
from collections.abc import Iterable

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.learning.learnt_calls import read_learnt_calls
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.compactor import compact, expire
from shoal.agents.traces.erased import count_erased, read_erased
from shoal.agents.traces.store import ParquetTraceStore
from shoal.commands._shared import read_config
from shoal.config import Config
from shoal.errors import CorruptModel
from shoal.home import Home


def open_registry(home: Home) -> SqlRegistry:
    """The data folder's registry; on the database that a configuration in it names, if one does."""
    if home.config.is_file():
        read_config(home, home.config)
    return SqlRegistry(home.database)


def open_traces(home: Home, config: Config) -> ParquetTraceStore:
    """The readable traces, with what the spool still holds moved over first, and without what is past `storage.retention_days`."""
    from shoal.nodes.site_key import load_or_create_key

    store = ParquetTraceStore(home, recognisers=recognition_of(config.privacy))
    if any(home.spool.glob("*")):
        compact(home, load_or_create_key(home.key), store)
    kept_days = config.storage.retention_days
    if kept_days is not None:
        expire(store, retention_days=kept_days, now=time.time(), forget=open_registry(home).delete_feedback)
    return store


def erased_calls(home: Home, versions: Iterable[Version]) -> dict[str, int]:
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


def trained_on_erased(home: Home, registry: SqlRegistry) -> dict[str, int]:
    """By name (TASK@N), the versions that may answer and were trained on calls that are erased since, with how many."""
    names = {task.id: task.name for task in registry.tasks()}
    gone = (VersionState.REJECTED, VersionState.RETIRED)
    live = [v for v in registry.versions() if v.task_id in names and v.state not in gone]
    counts = erased_calls(home, live)
    return {f"{names[v.task_id]}@{v.number}": counts[v.key] for v in live if v.key in counts}
