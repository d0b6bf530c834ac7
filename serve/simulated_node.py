"""Starts one more raylet on this machine, on loopback. A program of its own: reads one job as JSON on standard input, and ends when the
raylet runs.

`ray start` refuses a second node where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 makes Ray 2.60 bind to loopback, because it takes loopback for
an address that no other machine reaches. Here the second node is on the same machine on purpose, so the node is made as
`ray.cluster_utils` makes one.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    job: dict[str, Any] = json.load(sys.stdin)
    params = RayParams(
        **job,
        include_log_monitor=False,
        node_manager_port=0,
        object_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
    )
    Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False, connect_only=False)


if __name__ == "__main__":
    main()
