"""Runs and their events between plain data and gRPC messages. Shared by the gRPC server and the clients; knows nothing of either."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shoal.errors import InvalidRequest
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb

_TEXTS = ("run_id", "type", "step", "use", "status", "performer", "node", "tier", "label")
_NAMED = frozenset({*_TEXTS, "seq", "at", "output", "error"})


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def load_object(text: str, field: str, read: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """A field of JSON text that must be an object. Raises InvalidRequest."""
    try:
        value = read(text)
    except ValueError as error:
        raise InvalidRequest(
            f"`{field}` must be JSON text: {error}.", remedy="Mend the field.", param=field
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"`{field}` must be a JSON object, got {type(value).__name__}.",
            remedy="Mend the field.",
            param=field,
        )
    return value


def event_to_pb(event: Mapping[str, Any]) -> pb.StepEvent:
    out = pb.StepEvent(
        seq=int(event["seq"]),
        at=float(event["at"]),
        **{name: str(event.get(name) or "") for name in _TEXTS},
    )
    if event.get("error"):
        out.error = _dump(event["error"])
    if "output" in event:
        out.output_json = _dump(event["output"])
    extra = {name: value for name, value in event.items() if name not in _NAMED}
    if extra:
        out.extra_json = _dump(extra)
    return out


def event_from_pb(event: pb.StepEvent) -> dict[str, Any]:
    """As `event_to_pb` was given it: an event of a step has every field, one of the run as a whole those that are not empty."""
    out: dict[str, Any] = {"seq": event.seq, "at": event.at}
    out |= {name: value for name in _TEXTS if (value := getattr(event, name)) or event.step}
    if event.HasField("output_json"):
        out["output"] = json.loads(event.output_json)
    if event.error:
        out["error"] = json.loads(event.error)
    if event.HasField("extra_json"):
        out |= json.loads(event.extra_json)
    return out


def run_to_pb(run: Mapping[str, Any]) -> pb.Run:
    out = pb.Run(id=run["id"], plan=run["plan"], status=run["status"], run_json=_dump(run))
    if run.get("error"):
        out.error = _dump(run["error"])
    if run.get("output") is not None:
        out.output_json = _dump(run["output"])
    return out


def run_from_pb(run: pb.Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.run_json)
    return found
