"""Opens what a data folder holds, for the commands that need no running site."""

from __future__ import annotations

from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.compactor import compact
from shoal.agents.traces.store import ParquetTraceStore
from shoal.config import Config
from shoal.home import Home


def open_registry(home: Home) -> SqlRegistry:
    return SqlRegistry(home.database)


def open_traces(home: Home, config: Config) -> ParquetTraceStore:
    """The readable traces, with what the spool still holds moved over first."""
    from shoal.nodes.site_key import load_or_create_key

    store = ParquetTraceStore(home, recognisers=config.privacy.recognisers)
    if any(home.spool.glob("*")):
        compact(home, load_or_create_key(home.key), store)
    return store
