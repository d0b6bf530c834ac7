"""The history of versions over HTTP. A part of `http_api`; takes the scope `admin`.

GET /v1/specialists/history?specialist=TASK[@N]&since=SECONDS     {"object": "list", "data": [events, oldest first]}
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import Response

from shoal.errors import InvalidRequest
from shoal.serve.call import Caller, Scope
from shoal.serve.jsontext import write_json

#: (specialist, since) -> events; see `version_events`. Blocking
VersionHistory: TypeAlias = Callable[[str | None, float | None], Sequence[dict[str, Any]]]


class VersionRoutes:
    """The route over one gateway's registry. `let_in` is the HTTP API's own."""

    def __init__(
        self, history: VersionHistory, let_in: Callable[[Request, Scope], Awaitable[Caller]]
    ) -> None:
        self._history = history
        self._let_in = let_in

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/v1/specialists/history", self.history, methods=["GET"])

    async def history(self, request: Request) -> Response:
        """What happened to versions: each step, when, why, at whose word and in which epoch."""
        await self._let_in(request, "admin")
        text = request.query_params.get("since")
        try:
            since = None if text is None else float(text)
        except ValueError:
            raise InvalidRequest(
                f"`since` must be seconds since the epoch, got {text!r}.",
                remedy="For example since=1750000000.",
                param="since",
            ) from None
        events = await asyncio.to_thread(self._history, request.query_params.get("specialist"), since)
        return Response(write_json({"object": "list", "data": list(events)}), media_type="application/json")
