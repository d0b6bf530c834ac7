"""Opens what a data folder holds, for the commands that need no running site."""

from __future__ import annotations

import time

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.feedback.erasure import after_erasure
from shoal.agents.learning.forgetting import knowing_erased
from shoal.agents.registry.records import VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.compactor import compact, expire
from shoal.agents.traces.store import ParquetTraceStore
from shoal.commands._shared import read_config
from shoal.config import Config
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
        registry = open_registry(home)
        expire(
            store,
            retention_days=kept_days,
            now=time.time(),
            forget=lambda gone: after_erasure(home, registry, gone),
        )
    return store


def trained_on_erased(home: Home, registry: SqlRegistry) -> dict[str, int]:
    """By name (TASK@N), the versions that may answer and were trained on calls that are erased since, with how many."""
    names = {task.id: task.name for task in registry.tasks()}
    gone = (VersionState.REJECTED, VersionState.RETIRED)
    live = [v for v in registry.versions() if v.task_id in names and v.state not in gone]
    counts = knowing_erased(home, live)
    return {f"{names[v.task_id]}@{v.number}": counts[v.key] for v in live if v.key in counts}
