"""A node is lost while it serves: its raylet is killed. The last file of the session: the node does not come back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace

import psutil
import pytest
import tickets
from load import Load
from running_site import Site

from shoal.agents.registry.records import VersionState
from shoal.serve.processes import site_processes
from shoal.serve.site_status import site_status

pytestmark = pytest.mark.cluster


def raylet_of(site: Site, node: str) -> int:
    """The raylet of a simulated node: the one whose command line names it."""
    for process in site_processes(site.started.record.id):
        try:
            if process.name() == "raylet" and any(node in word for word in process.cmdline()):
                return process.pid
        except psutil.Error:
            continue
    raise LookupError(node)


async def test_a_lost_node_costs_no_answer_and_its_specialists_are_moved(site: Site) -> None:
    _, plain = tickets.install(site.home, state=VersionState.PAUSED)
    own = replace(plain, number=plain.number + 1, state=VersionState.SERVING, needs={"tier": "edge"})
    site.registry.add_version(own)
    site.registry.set_state(site.version.key, VersionState.RETIRED, reason="test")

    def node_of(key: str) -> str:
        found = site_status(site.home, site.config)["placement"]["assignments"].get(key)
        return "" if found is None else str(found["node"])

    def served_by_own() -> bool:
        return site.served_by().endswith(f"@{own.number}")

    await asyncio.to_thread(site.wait_until, served_by_own, within_s=40)
    assert node_of(own.key) == "edge-1"
    assert site.ask("Hello, I have a question about my invoice.").headers["X-Shoal-Tier"] == "edge"
    async with Load(site.url) as load:
        await asyncio.sleep(2)
        killed_at = time.monotonic()
        os.kill(raylet_of(site, "edge-1"), signal.SIGKILL)
        await asyncio.to_thread(site.wait_until, lambda: node_of(own.key) not in ("", "edge-1"), within_s=30)
        moved_s = time.monotonic() - killed_at
        await asyncio.to_thread(site.wait_until, served_by_own, within_s=30)
        again_s = time.monotonic() - killed_at
        await asyncio.sleep(1)
    after = [g for g in load.got if g.at >= killed_at]
    next_s = min(g.until for g in after if g.ok) - killed_at
    print(
        f"raylet: next answer {next_s:.2f} s, placed anew {moved_s:.1f} s, specialist again {again_s:.1f} s"
    )
    assert all(g.ok for g in load.got)
    assert next_s < 2
    assert again_s < 30
    acknowledged = {g.trace_id for g in load.got}
    assert acknowledged - site.kept_traces() == set()
    away = {node["name"]: node["alive"] for node in site_status(site.home, site.config)["nodes"]}
    assert away["edge-1"] is False
