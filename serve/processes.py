"""The operating system's view of a site: which processes are its own, what they listen on, how they are ended.

A site's processes are known by a variable in their environment that only `up` sets, with an id drawn for that one start. Nothing is
ever ended by its name. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import re
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from shoal.errors import SiteError

#: every process of a site carries the site's id in this variable
SITE_VARIABLE = "SHOAL_SITE_ID"
#: above the ports of Ray's workers (10002 to 19999), below those of Serve's replicas (30000 on) and of outgoing connections
_OWN_PORTS = range(20_000, 30_000)


_METHOD = re.compile(r"(?:\.[a-z_]\w*)?(?:\(\))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """One process, told apart from a later one with the same number by when it was made (seconds since the epoch)."""

    pid: int
    created: float

    def to_dict(self) -> dict[str, float]:
        return {"pid": self.pid, "created": self.created}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """A process of the site, as a person would want to see it.

    `memory_mb`: resident memory in MiB, its fair part of pages that it shares (PSS), so that a sum over processes is what they
    take; on a system that does not tell, all of its pages (RSS).
    """

    pid: int
    name: str
    memory_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int
    pid: int
    process: str

    @property
    def beyond_loopback(self) -> bool:
        address = ipaddress.ip_address(self.address.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_loopback


def site_processes(site_id: str) -> list[psutil.Process]:
    """All living processes that carry the site's id, and what they have started.

    Some of Ray's agents write their title over their own environment; they are found through their parent.
    """
    found = {process.pid: process for process in psutil.process_iter() if _belongs(process, site_id)}
    for process in list(found.values()):
        try:
            found.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.Error:
            continue
    return list(found.values())


def _belongs(process: psutil.Process, site_id: str) -> bool:
    try:
        mine: bool = process.environ().get(SITE_VARIABLE) == site_id
        return mine and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False  # another user's, or gone


def marks(processes: Iterable[psutil.Process]) -> list[ProcessMark]:
    found = []
    for process in processes:
        try:
            found.append(ProcessMark(pid=process.pid, created=process.create_time()))
        except psutil.Error:
            continue
    return found


def is_alive(mark: ProcessMark) -> bool:
    """Whether this very process still lives."""
    try:
        process = psutil.Process(mark.pid)
        return abs(process.create_time() - mark.created) < 0.02 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find(mark: ProcessMark) -> psutil.Process | None:
    """The process behind a mark, if it still lives."""
    try:
        return psutil.Process(mark.pid) if is_alive(mark) else None
    except psutil.Error:
        return None


def describe(processes: Iterable[psutil.Process]) -> list[ProcessView]:
    """Largest first."""
    views = []
    for process in processes:
        try:
            views.append(
                ProcessView(
                    pid=process.pid,
                    name=_shown_name(process),
                    memory_mb=_memory(process) >> 20,
                )
            )
        except psutil.Error:
            continue
    return sorted(views, key=lambda view: -view.memory_mb)


def _memory(process: psutil.Process) -> int:
    """Bytes."""
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)


def _shown_name(process: psutil.Process) -> str:
    """Ray writes an actor's name over its command line, with what it does; other processes are known by their program."""
    words = process.cmdline()
    first = words[0] if words else process.name()
    if first.startswith("ray::"):
        return _METHOD.sub("", first.removeprefix("ray::").removeprefix("ServeReplica:"))
    script = next((w for w in words[1:3] if w.endswith(".py") or w.startswith(("ray.", "shoal."))), "")
    return (script or first).rpartition("/")[2]


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """What the processes listen on, by port."""
    return sorted(_listeners(processes), key=lambda listener: (listener.port, listener.address))


def _listeners(processes: Iterable[psutil.Process]) -> Iterator[Listener]:
    for process in processes:
        try:
            name = _shown_name(process)
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                yield Listener(
                    address=connection.laddr.ip, port=connection.laddr.port, pid=process.pid, process=name
                )


def drain(proxies: Sequence[psutil.Process], *, grace_s: float) -> None:
    """Tell HAProxy processes to finish the connections that they have, and wait a while for it."""
    for process in proxies:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)
    psutil.wait_procs(list(proxies), timeout=grace_s)


def end(processes: Sequence[psutil.Process], *, grace_s: float) -> None:
    """Ask the processes to end, wait, then kill what is left. Returns when they are gone.

    Raises:
        SiteError: a process does not even die of SIGKILL.
    """
    for process in processes:
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(list(processes), timeout=grace_s)
    for process in alive:
        _signal(process, kill=True)
    _, alive = psutil.wait_procs(alive, timeout=10)
    if alive:
        raise SiteError(
            f"Processes of the site do not end: {', '.join(str(p.pid) for p in alive)}.",
            remedy="They hang in the kernel (a dead disk?); end them by hand.",
        )


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill() if kill else process.terminate()


def require_free_port(host: str, port: int, *, what: str, remedy: str) -> None:
    """Raises SiteError where somebody listens on the port already, or the address is none of this machine's."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise SiteError(
            f"{what}: {host!r} is no address of this machine ({error.strerror}).",
            remedy="Use 127.0.0.1, or an address that the machine has.",
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SiteError(f"{what}: port {port} on {host} is in use.", remedy=remedy) from error
        raise SiteError(f"{what}: {host}:{port} cannot be used: {error.strerror}.", remedy=remedy) from error


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, all different, and that the kernel and Ray give to nobody by themselves.

    Raises:
        SiteError: nearly all of the range is in use.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_OWN_PORTS, len(_OWN_PORTS)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            found.append(port)
        if len(found) == count:
            return found
    raise SiteError(
        f"No {count} ports are free on {host} between {_OWN_PORTS.start} and {_OWN_PORTS.stop}.",
        remedy="End what holds them.",
    )
