"""Calls for tests of the ledger."""

from __future__ import annotations

from typing import Any

from shoal.agents.traces.trace import Trace, TraceId

HOUR_S = 3600.0


def call(
    number: int,
    *,
    by: str = "generalist/big",
    task: str = "a",
    tokens: tuple[int, int] = (100, 10),
    cost_usd: float | None = None,
    latency_ms: float | None = None,
    privacy: str = "internal",
    at: float | None = None,
    **tags: Any,
) -> Trace:
    """A call that a site recorded, an hour after the one before."""
    return Trace(
        id=TraceId(f"t{number}"),
        request={"model": "auto", "messages": [{"role": "user", "content": f"call {number}"}]},
        response={
            "model": by,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
        },
        timestamp=HOUR_S * number if at is None else at,
        served_by=by,
        latency_ms=latency_ms,
        cost_usd=0.0 if by.startswith("specialist/") else cost_usd,
        privacy=privacy,
        tags={"task_id": task, **tags},
    )


def specialist_call(number: int, ms: float | None = 2.0, **more: Any) -> Trace:
    effort = {} if ms is None else {"compute_ms": ms, "compute_on": "cpu", "compute_tier": "edge"}
    return call(number, by="specialist/a@1", **{**effort, **more})
