"""How a site is, from its files, its processes and its own answers over HTTP. Loads no Ray."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shoal.agents.curation.recognition import recognition_of
from shoal.config import Config
from shoal.errors import SiteError
from shoal.home import Home
from shoal.serve.nodes_status import SILENT_S, nodes_table, read_placement
from shoal.serve.probe import reachability, readiness
from shoal.serve.processes import describe, listeners
from shoal.serve.site import alive_processes, is_up
from shoal.serve.site_record import SiteRecord, read_record

#: an actor that has written nothing for so long is away
_ROUTER_SILENT_S = 5.0


def site_status(home: Home, config: Config) -> dict[str, Any]:
    """Plain data for people and machines: `up`, `site`, `router`, `feedback`, `nodes`, `placement`, `versions`, `money`, `traces`, `processes`, `listeners`, `exposed`.

    `exposed` are the listeners that other machines can reach, by address.
    """
    record = read_record(home.site)
    processes = [] if record is None else alive_processes(record)
    heard = listeners(processes)
    return {
        "up": record is not None and is_up(record),
        "home": str(home.root),
        "logs": str(home.logs),
        "site": None if record is None else _site(record),
        "router": _router(home),
        "feedback": _feedback(home),
        **_placement(home),
        "versions": _versions(home),
        "money": _money(home, config),
        "traces": _traces(home, config),
        "processes": [asdict(view) for view in describe(processes)],
        "listeners": [asdict(listener) for listener in heard],
        "exposed": [asdict(listener) for listener in heard if listener.beyond_loopback],
    }


def _site(record: SiteRecord) -> dict[str, Any]:
    generalist = "none"
    if record.generalist_url is not None:
        reached = reachability(record.generalist_url)
        generalist = f"{record.generalist_model} at {record.generalist_url} ({reached})"
    return {
        "url": record.url,
        "grpc": record.grpc_address,
        "answer": readiness(record.url),
        "generalist": generalist,
        "ray": record.address,
        "mode": record.mode,
        "phase": record.phase,
        "started_at": record.started_at,
    }


def _placement(home: Home) -> dict[str, Any]:
    """`nodes`, a row for each, and `placement`: what the placement actor last decided; None where it never said anything."""
    try:
        said = read_placement(home.placement_status)
    except SiteError:
        return {"nodes": [], "placement": None}
    decision = said["decision"]
    trouble = said["trouble"]
    if said["age_s"] > SILENT_S:
        trouble = f"(away) {trouble}".strip()
    return {
        "nodes": nodes_table(said),
        "placement": {
            "age_s": said["age_s"],
            "trouble": trouble,
            "loaded": said["loaded"],
            "assignments": decision["assignments"],
            "unplaced": decision["unplaced"],
        },
    }


def _router(home: Home) -> dict[str, Any] | None:
    """What the router actor last said of itself; None where it never said anything."""
    try:
        said: dict[str, Any] = json.loads(home.router_status.read_text(encoding="utf-8"))
        age_s = max(0.0, time.time() - float(said["at"]))
    except (OSError, ValueError, KeyError):
        return None
    trouble = said["trouble"] or said["compact_trouble"]
    if age_s > _ROUTER_SILENT_S:
        trouble = f"(away) {trouble}".strip()
    return {**said, "age_s": age_s, "trouble": trouble}


def _feedback(home: Home) -> dict[str, Any] | None:
    """What the feedback actor last said of itself; None where it never said anything."""
    try:
        said: dict[str, Any] = json.loads(home.feedback_status.read_text(encoding="utf-8"))
        age_s = max(0.0, time.time() - float(said["at"]))
    except (OSError, ValueError, KeyError):
        return None
    trouble = f"(away) {said['trouble']}".strip() if age_s > _ROUTER_SILENT_S else said["trouble"]
    return {**said, "age_s": age_s, "trouble": trouble}


def _versions(home: Home) -> list[dict[str, Any]]:
    database = home.database
    if isinstance(database, Path) and not database.exists():
        return []
    from shoal.agents.registry.store import SqlRegistry

    registry = SqlRegistry(database)
    try:
        names = {task.id: task.name for task in registry.tasks()}
        return [
            {
                "key": version.key,
                "task": names.get(version.task_id, version.task_id),
                "number": version.number,
                "state": str(version.state),
                "reason": version.reason,
            }
            for version in registry.versions()
        ]
    finally:
        registry.close()


def _money(home: Home, config: Config) -> dict[str, Any] | None:
    """All calls' account; None where there are none, or adding them up would take long (`shoal costs` does)."""
    if isinstance(home.database, Path) and not home.database.exists():
        return None
    from shoal.agents.registry.store import SqlRegistry
    from shoal.agents.traces.store import ParquetTraceStore
    from shoal.serve.money import books_at_hand

    registry = SqlRegistry(home.database)
    try:
        store = ParquetTraceStore(home, recognisers=recognition_of(config.privacy))
        books = books_at_hand(home, registry, store, config)
    finally:
        registry.close()
    if books is None or not books.accounts.total.calls:
        return None
    return {**books.accounts.total.to_dict(), "stand_ins": list(books.accounts.stand_ins)}


def _traces(home: Home, config: Config) -> dict[str, Any]:
    from shoal.agents.traces.store import ParquetTraceStore

    spool = [p.stat().st_size for p in home.spool.glob("*") if p.is_file()] if home.spool.is_dir() else []
    store = ParquetTraceStore(home, recognisers=recognition_of(config.privacy))
    return {"readable": store.count(), "spool_files": len(spool), "spool_mb": sum(spool) / (1 << 20)}
