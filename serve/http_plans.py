"""Plans over HTTP: start a run, follow it, look at it, end it. A part of `http_api`, thin over the chat service.

POST /v1/plans/{name}/runs   {"input": {...}, "privacy"?, "stream"?, "plan"?}: 201 with the run, or its events where `stream`
GET /v1/plans                names of the plans
GET /v1/runs                 the newest runs
GET /v1/runs/{id}            a run; /events follows it (server-sent events, `?after=` a `seq`)
POST /v1/runs/{id}/resume    go on with a run that failed or was cancelled
DELETE /v1/runs/{id}         end it
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal.agents.traces.chat import Privacy
from shoal.errors import InvalidRequest, ShoalError
from shoal.serve.call import Caller, Scope, read_label
from shoal.serve.jsontext import write_json
from shoal.serve.ports import LISTED_RUNS
from shoal.serve.service import ChatService
from shoal.serve.status import error_object

#: more digits than any event's number has
_SEQ_DIGITS = 9


class RunBody(BaseModel):
    """What starts a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    input: dict[str, Any] = Field(default_factory=dict)
    privacy: str | None = None
    stream: bool = False
    plan: dict[str, Any] | None = None


def read_run_body(body: object) -> tuple[RunBody, Privacy | None]:
    """Raises InvalidRequest with the path to the first bad field."""
    try:
        asked = RunBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(
            f"`{path}`: {first['msg']}, got {str(first.get('input'))[:80]!r}.",
            remedy='Send {"input": {...}, "privacy"?: ..., "stream"?: true, "plan"?: {...}}.',
            param=path or None,
        ) from None
    return asked, read_label(asked.privacy, "privacy")


RUN = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": RunBody.model_json_schema()}},
    }
}


class PlanRoutes:
    """The routes.

    Args:
        let_in, json: authenticate a request, and read its body; `http_api`'s.
    """

    def __init__(
        self,
        service: ChatService,
        let_in: Callable[[Request, Scope], Awaitable[Caller]],
        json: Callable[[Request], Awaitable[Any]],
    ) -> None:
        self._service = service
        self._let_in = let_in
        self._json = json

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/v1/plans", self.plans, methods=["GET"])
        app.add_api_route("/v1/plans/{name}/runs", self.start, methods=["POST"], openapi_extra=RUN)
        app.add_api_route("/v1/runs", self.runs, methods=["GET"])
        app.add_api_route("/v1/runs/{run_id}", self.run, methods=["GET"])
        app.add_api_route("/v1/runs/{run_id}", self.cancel, methods=["DELETE"])
        app.add_api_route("/v1/runs/{run_id}/events", self.events, methods=["GET"])
        app.add_api_route("/v1/runs/{run_id}/resume", self.resume, methods=["POST"])

    async def plans(self, request: Request) -> Response:
        """Names of the plans."""
        await self._let_in(request, "plans")
        names = await self._service.plans.names()
        return JSONResponse({"object": "list", "data": [{"name": name} for name in names]})

    async def start(self, request: Request) -> Response:
        """Start a run."""
        caller = await self._let_in(request, "plans")
        asked, label = read_run_body(await self._json(request))
        label = label or read_label(request.headers.get("x-shoal-privacy"), "X-Shoal-Privacy")
        run_id = await self._service.run_plan(
            request.path_params["name"], asked.input, caller, privacy=label, plan=asked.plan
        )
        if asked.stream:
            return await self._follow(run_id, 0, caller)
        run = await self._service.plans.get(run_id)
        return _json_response(
            run, status=201, headers={"Location": f"/v1/runs/{run_id}", "X-Shoal-Run-Id": run_id}
        )

    async def runs(self, request: Request) -> Response:
        """The newest runs."""
        caller = await self._let_in(request, "plans")
        found = await self._service.plans.runs(LISTED_RUNS, owner=caller.runs_of)
        return _json_response({"object": "list", "data": found})

    async def run(self, request: Request) -> Response:
        """How a run stands, with its steps and, at its end, its result."""
        caller = await self._let_in(request, "plans")
        run_id = request.path_params["run_id"]
        return _json_response(await self._service.plans.get(run_id, owner=caller.runs_of))

    async def events(self, request: Request) -> Response:
        """A run's events, those of the past and those to come."""
        caller = await self._let_in(request, "plans")
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= _SEQ_DIGITS):
            raise InvalidRequest(
                f"`after` must be a whole number, got {after[:40]!r}.",
                remedy="Give the `seq` of the last event that you have.",
                param="after",
            )
        return await self._follow(request.path_params["run_id"], int(after), caller)

    async def cancel(self, request: Request) -> Response:
        """End a run."""
        caller = await self._let_in(request, "plans")
        run_id = request.path_params["run_id"]
        return _json_response(await self._service.plans.cancel(run_id, owner=caller.runs_of))

    async def resume(self, request: Request) -> Response:
        """Go on with a run that failed or was cancelled."""
        caller = await self._let_in(request, "plans")
        run_id = request.path_params["run_id"]
        return _json_response(await self._service.plans.resume(run_id, owner=caller.runs_of))

    async def _follow(self, run_id: str, after: int, caller: Caller) -> Response:
        owner = caller.runs_of
        await self._service.plans.get(run_id, owner=owner)  # an unknown run is a 404, not an empty stream
        return StreamingResponse(
            _sse(self._service.plans.events(run_id, after=after, owner=owner)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Shoal-Run-Id": run_id},
        )


async def _sse(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for event in events:
            yield b"event: " + str(event["type"]).encode() + b"\ndata: " + write_json(event) + b"\n\n"
    except ShoalError as error:
        yield b"event: error\ndata: " + write_json({"error": error_object(error)}) + b"\n\n"
        return
    yield b"data: [DONE]\n\n"


def _json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(write_json(value), status_code=status, headers=headers, media_type="application/json")
