"""A site from outside: started, stopped, looked at. Decides settings and ports; Ray itself is started by `bring_up.py`.

Loads no Ray, so that every command answers at once, also when Ray is what is broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from shoal.config import Config
from shoal.errors import ConfigError, Conflict, SiteError, UsageError
from shoal.home import Home
from shoal.nodes.identity import TIERS, node_identity
from shoal.nodes.site_key import load_or_create_key
from shoal.serve.bring_up_process import Step, run_bring_up
from shoal.serve.probe import ANSWERS, READY, reachability, readiness
from shoal.serve.processes import drain, end, find, marks, require_free_port, site_processes
from shoal.serve.ray_local import (
    LocalRay,
    SitePorts,
    prepare_folder,
    site_environment,
    write_haproxy_script,
    write_token,
)
from shoal.serve.site_record import SiteRecord, read_record, write_record

_DRAIN_S = 1.5
_STOP_GRACE_S = 0.4
_MOST_NODES = 8

#: what Ray and HAProxy say where a listener's port is taken
_LOST_PORT = ("start their listeners", "ddress already in use", "killed by `ray.kill`")


def _silent(step: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What `start_site` did. `already`: the site was up before; `warnings`: for people."""

    record: SiteRecord
    already: bool = False
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def start_site(
    home: Home,
    config: Config,
    *,
    address: str | None = None,
    dashboard: bool = False,
    nodes: Mapping[str, int] | None = None,
    on_step: Step = _silent,
) -> Started:
    """Start the site of a data folder and wait until it answers.

    Args:
        address: a running Ray cluster to join; None for a Ray of its own.
        nodes: how many nodes of each tier, for trying things out: further raylets on this machine, said to be simulated wherever they
            show. This machine itself counts as one of its own tier.
        on_step: told what is being done, for people.

    Raises:
        UsageError: `nodes` with an `address`, or no tier, or no count.
        SiteError: a port is in use, Ray does not start or the gateway does not get ready; nothing is left running then.
        Conflict: the site is up, with other settings.
        ConfigError: the generalist's key is not set, or a TLS file cannot be read.
    """
    nodes = checked_nodes(nodes or {}, joins=address is not None)
    home.create()
    if config.storage.database is not None:
        home.use_database(config.storage.database)
    began = time.monotonic()
    with _only_one(home):
        existing = read_record(home.site)
        if existing is not None and is_up(existing):
            _require_same(existing, config)
            _require_nodes(existing, nodes)
            return Started(record=existing, already=True)
        if existing is not None:
            on_step("cleaning up after an earlier site")
            with contextlib.suppress(SiteError):  # a cluster that is gone has nothing left to stop
                _stop(home, existing)
        if config.generalist is not None:
            config.generalist.api_key()
        _require_tls(config)
        _require_ports(config)
        load_or_create_key(home.key)
        record, done = _plan_and_bring_up(home, config, address, dashboard, nodes, on_step)
        record = replace(
            record,
            phase="up",
            owns_serve=bool(done["owns_serve"]),
            processes=tuple(marks(site_processes(record.id))),
        )
        write_record(home.site, record)
    warnings = [str(warning) for warning in done.get("warnings", ())]
    if record.generalist_url is not None and (why := reachability(record.generalist_url)) != ANSWERS:
        warnings.append(f"The generalist at {record.generalist_url} {why}")
    return Started(record=record, seconds=time.monotonic() - began, warnings=tuple(warnings))


def _plan_and_bring_up(
    home: Home,
    config: Config,
    address: str | None,
    dashboard: bool,
    nodes: Mapping[str, int],
    on_step: Step,
) -> tuple[SiteRecord, Mapping[str, Any]]:
    """Bring the site up; once more, with other ports of its own, where another process took one in the meantime."""
    for last in (False, True):
        record, local = _plan(home, config, address, dashboard, nodes)
        write_record(home.site, record)
        try:
            return record, _bring_up(home, config, record, local, on_step)
        except BaseException as error:
            _stop(home, record)
            if last or local is None or not lost_a_port(error):
                raise
        _require_ports(config)  # where it is one that clients use, this says so
        on_step("starting again: a port was taken meanwhile")
    raise AssertionError("unreachable")


def checked_nodes(nodes: Mapping[str, int], *, joins: bool) -> dict[str, int]:
    """How many nodes of each tier. Raises UsageError."""
    if nodes and joins:
        raise UsageError(
            "--nodes simulates nodes on a Ray of the site's own, and --address joins one that is there.",
            remedy="Leave one of them out.",
            param="--nodes",
        )
    for tier, count in nodes.items():
        if tier not in TIERS or not 0 <= count <= _MOST_NODES:
            raise UsageError(
                f"--nodes counts nodes of the tiers {', '.join(TIERS)}, at most {_MOST_NODES} of each, got {tier}={count}.",
                remedy="For example --nodes cloud=1,edge=1,local=1.",
                param="--nodes",
            )
    return dict(nodes)


def lost_a_port(error: BaseException) -> bool:
    """Whether a start failed because a port that was free is not any more: HAProxy says so, or Serve ends its proxy for it."""
    text = str(error)
    return isinstance(error, SiteError) and any(sign in text for sign in _LOST_PORT)


def stop_site(home: Home, *, on_step: Step = _silent) -> SiteRecord | None:
    """Stop exactly what `start_site` started, and wait until it is gone. None where nothing was up.

    Raises:
        SiteError: a process does not end, or the joined cluster does not answer.
    """
    if not home.root.is_dir():
        return None
    with _only_one(home):
        record = read_record(home.site)
        if record is None:
            return None
        on_step("stopping the site")
        _stop(home, record)
        return record


def is_up(record: SiteRecord) -> bool:
    """Whether the site's Ray lives; on a Ray that it joined, whether its gateway answers."""
    if record.phase != "up":
        return False
    if record.mode == "joined":
        return readiness(record.url) == READY
    names = {p.name() for p in map(find, record.processes) if p is not None}
    return "raylet" in names and "gcs_server" in names


def _require_same(record: SiteRecord, config: Config) -> None:
    generalist = config.generalist
    wanted = {
        "host": config.serve.host,
        "port": config.serve.port,
        "gRPC port": config.serve.grpc_port,
        "generalist": None if generalist is None else generalist.base_url,
        "model": None if generalist is None else generalist.model,
    }
    there = {
        "host": record.host,
        "port": record.port,
        "gRPC port": record.grpc_port,
        "generalist": record.generalist_url,
        "model": record.generalist_model,
    }
    for name, value in wanted.items():
        if value != there[name]:
            raise Conflict(
                f"The site is up already, with {name} {there[name]} instead of {value}.",
                remedy="Run `shoal down` first.",
            )


def _require_nodes(record: SiteRecord, nodes: Mapping[str, int]) -> None:
    """Simulated nodes cannot be added to a site that is up. Raises Conflict."""
    there = Counter(name.rpartition("-")[0] for name in record.nodes)
    there[node_identity().tier] += 1
    if nodes and there != Counter({tier: count for tier, count in nodes.items() if count}):
        raise Conflict(
            f"The site is up already, with the nodes {', '.join(['head', *record.nodes])}.",
            remedy="Run `shoal down` first.",
        )


def _require_tls(config: Config) -> None:
    """The gateway would find out too, but only after Ray has started."""
    if config.tls is None:
        return
    for name, path in (("certificate", config.tls.certificate), ("private_key", config.tls.private_key)):
        if not os.access(path, os.R_OK):
            raise ConfigError(
                f"`tls.{name}`: {path} cannot be read.", remedy="Name a PEM file.", param=f"tls.{name}"
            )


def _require_ports(config: Config) -> None:
    serve = config.serve
    if serve.port == serve.grpc_port:
        raise SiteError(
            f"HTTP and gRPC cannot share port {serve.port}.", remedy="Name another with --grpc-port."
        )
    require_free_port(serve.host, serve.port, what="HTTP", remedy="Name another with --port.")
    require_free_port(serve.host, serve.grpc_port, what="gRPC", remedy="Name another with --grpc-port.")


def _plan(
    home: Home, config: Config, address: str | None, dashboard: bool, nodes: Mapping[str, int]
) -> tuple[SiteRecord, LocalRay | None]:
    site_id = secrets.token_hex(8)
    local = None
    if address is None:
        local = LocalRay(
            site_id=site_id,
            folder=prepare_folder(),
            token_path=write_token(home),
            ports=SitePorts.choose(config.serve.port, config.serve.grpc_port),
            num_cpus=config.serve.num_cpus,
            memory_mb=psutil.virtual_memory().total >> 20,
            tier=node_identity().tier,
            dashboard=dashboard,
            nodes=dict(nodes),
        )
        write_haproxy_script(local)
    generalist = config.generalist
    record = SiteRecord(
        id=site_id,
        mode="joined" if local is None else "local",
        phase="starting",
        address=address or (local.address if local else ""),
        run_folder="" if local is None else str(local.folder),
        host=config.serve.host,
        port=config.serve.port,
        grpc_port=config.serve.grpc_port,
        generalist_url=None if generalist is None else generalist.base_url,
        generalist_model=None if generalist is None else generalist.model,
        started_at=time.time(),
        nodes=() if local is None else tuple(node.name for node in local.further_nodes()),
    )
    return record, local


def _bring_up(
    home: Home, config: Config, record: SiteRecord, local: LocalRay | None, on_step: Step
) -> Mapping[str, Any]:
    job = {
        "do": "start",
        "mode": record.mode,
        "home": str(home.root),
        "logs": str(home.logs),
        "config": config.model_dump(mode="json"),
        "address": record.address,
        "url": record.url,
        "ray": None if local is None else asdict(local),
    }
    environment = dict(os.environ) if local is None else site_environment(local, os.environ)
    return run_bring_up(job, environment, home, on_step)


def _stop(home: Home, record: SiteRecord) -> None:
    if record.mode == "joined":
        if record.phase == "up":
            job = {
                "do": "leave",
                "logs": str(home.logs),
                "address": record.address,
                "owns_serve": record.owns_serve,
            }
            run_bring_up(job, os.environ, home, _silent)
    else:
        _stop_local(record)
    for path in (home.site, home.router_status, home.placement_status, home.feedback_status, home.ray_token):
        path.unlink(missing_ok=True)


def _stop_local(record: SiteRecord) -> None:
    living = _living(record)
    # HAProxy takes no more calls, and is given a moment for those under way
    drain([p for p in living if _name(p) == "haproxy"], grace_s=_DRAIN_S)
    # then the raylet: it ends its workers, and nothing restarts what is ended after it
    end([p for p in living if _name(p) in ("raylet", "gcs_server")], grace_s=_STOP_GRACE_S)
    end(living, grace_s=_STOP_GRACE_S)
    while rest := _living(record):
        end(rest, grace_s=_STOP_GRACE_S)
    folder = Path(record.run_folder)
    if record.run_folder and folder.name.startswith("shoal-"):
        shutil.rmtree(folder, ignore_errors=True)


def _living(record: SiteRecord) -> list[psutil.Process]:
    recorded = [p for p in map(find, record.processes) if p is not None]
    found = {p.pid: p for p in [*recorded, *site_processes(record.id)]}
    found.pop(os.getpid(), None)
    return list(found.values())


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


@contextlib.contextmanager
def _only_one(home: Home) -> Iterator[None]:
    """Two commands must not start or stop the same site at once."""
    descriptor = os.open(home.root / ".site.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SiteError(
            f"Another command is starting or stopping the site of {home.root}.",
            remedy="Wait for it to end.",
        ) from None
    finally:
        os.close(descriptor)


def alive_processes(record: SiteRecord) -> list[psutil.Process]:
    """The site's processes on this machine."""
    return _living(record)
