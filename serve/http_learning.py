"""Learning in the background over HTTP: begin it, look at it, stop it. A part of `http_api`; takes the scope `admin`.

POST /v1/learning     {"tasks"?: [names or ids]}: 202 with how it stands; begins as soon as no other run is under way
GET /v1/learning      how it stands
DELETE /v1/learning   stop the run that is under way
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from shoal.errors import InvalidRequest
from shoal.serve.call import Caller, Scope
from shoal.serve.jsontext import write_json


class LearningControl(Protocol):
    """The feedback actor, as a gateway sees it. All raise SiteError where it is away."""

    async def learn(self, tasks: Sequence[str]) -> Mapping[str, Any]:
        """All tasks where none is named. Raises NotFound."""
        ...

    async def standing(self) -> Mapping[str, Any]: ...

    async def stop(self) -> bool:
        """False where no run of the site's own is under way."""
        ...


class LearnBody(BaseModel):
    """What begins a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    tasks: list[str] = []


LEARN = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": LearnBody.model_json_schema()}},
    }
}


class LearningRoutes:
    """The routes over one gateway's control. `let_in` and `read` are the HTTP API's own."""

    def __init__(
        self,
        control: LearningControl,
        let_in: Callable[[Request, Scope], Awaitable[Caller]],
        read: Callable[[Request], Awaitable[Any]],
    ) -> None:
        self._control = control
        self._let_in = let_in
        self._read = read

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/v1/learning", self.learn, methods=["POST"], openapi_extra=LEARN)
        app.add_api_route("/v1/learning", self.standing, methods=["GET"])
        app.add_api_route("/v1/learning", self.stop, methods=["DELETE"])

    async def learn(self, request: Request) -> Response:
        """Have a learning run begun in the background."""
        await self._let_in(request, "admin")
        try:
            asked = LearnBody.model_validate(await self._read(request))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(
                f"`{path}`: {first['msg']}, got {str(first.get('input'))[:80]!r}.",
                remedy='Send {"tasks": ["name", ...]}, or {} for all tasks.',
                param=path or None,
            ) from None
        said = await self._control.learn(asked.tasks)
        return Response(write_json(said), status_code=202, media_type="application/json")

    async def standing(self, request: Request) -> Response:
        """How learning stands: the run under way, the last one, what waits."""
        await self._let_in(request, "admin")
        return Response(write_json(await self._control.standing()), media_type="application/json")

    async def stop(self, request: Request) -> Response:
        """Stop the run that is under way; what it has finished is kept."""
        await self._let_in(request, "admin")
        return JSONResponse({"stopped": await self._control.stop()})
