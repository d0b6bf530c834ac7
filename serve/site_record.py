"""What a running site is, as its data folder remembers it. Plain data; starts and stops nothing."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shoal.errors import DataError
from shoal.serve.processes import ProcessMark

#: version of the file's shape
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """One start of a site.

    Attributes:
        id: drawn for this start; every process of it carries it in its environment.
        mode: `local`: a Ray of its own; `joined`: a Ray that was there already.
        phase: `starting` until everything answers.
        address: of the Ray cluster's head, `host:port`.
        run_folder: private folder for sockets and Ray's session; short, because socket paths are.
        owns_serve: Ray Serve was started by us, and may be shut down by us.
        nodes: names of the simulated nodes beside the head.
        processes: what `up` had started when it returned.
    """

    id: str
    mode: Literal["local", "joined"]
    phase: Literal["starting", "up"]
    address: str
    run_folder: str
    host: str
    port: int
    grpc_port: int
    generalist_url: str | None
    generalist_model: str | None
    started_at: float
    owns_serve: bool = True
    nodes: tuple[str, ...] = ()
    processes: tuple[ProcessMark, ...] = ()

    @property
    def url(self) -> str:
        """Base URL for HTTP clients on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def grpc_address(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"{f'[{host}]' if ':' in host else host}:{self.grpc_port}"

    def to_dict(self) -> dict[str, Any]:
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SiteRecord:
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        return replace(
            cls(**{**fields, "nodes": tuple(fields["nodes"]), "processes": ()}),
            processes=tuple(
                ProcessMark(pid=int(p["pid"]), created=float(p["created"])) for p in fields["processes"]
            ),
        )


def read_record(path: Path) -> SiteRecord | None:
    """The record, or None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return SiteRecord.from_dict(data)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}, which says what runs here, is damaged: {error!r}.",
            remedy="End the site's processes by hand and delete the file.",
        ) from error


def write_record(path: Path, record: SiteRecord) -> None:
    """Write whole or not at all, mode 0600."""
    write_json(path, record.to_dict())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a small JSON file, whole or not at all, mode 0600."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
