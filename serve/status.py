"""The one table from Shoal's errors to HTTP and gRPC statuses, and back. HTTP, gRPC and the clients use no other.

Imports nothing but the error tree, so that the clients stay light: gRPC codes stand here by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shoal import errors
from shoal.errors import GeneralistRefused, RateLimited, ShoalError


@dataclass(frozen=True, slots=True)
class Status:
    """How an error leaves.

    Attributes:
        http: the response's status.
        grpc: the name of a `grpc.StatusCode`.
        kind: OpenAI's `error.type`.
    """

    http: int
    grpc: str
    kind: str


TABLE: dict[type[ShoalError], Status] = {
    ShoalError: Status(500, "INTERNAL", "server_error"),
    errors.ConfigError: Status(500, "FAILED_PRECONDITION", "server_error"),
    errors.UsageError: Status(400, "INVALID_ARGUMENT", "invalid_request_error"),
    errors.DataError: Status(400, "INVALID_ARGUMENT", "invalid_request_error"),
    errors.InvalidRequest: Status(400, "INVALID_ARGUMENT", "invalid_request_error"),
    errors.RequestTooLarge: Status(413, "RESOURCE_EXHAUSTED", "invalid_request_error"),
    errors.Unauthenticated: Status(401, "UNAUTHENTICATED", "authentication_error"),
    errors.PermissionDenied: Status(403, "PERMISSION_DENIED", "permission_error"),
    errors.NotFound: Status(404, "NOT_FOUND", "not_found_error"),
    errors.Conflict: Status(409, "FAILED_PRECONDITION", "conflict_error"),
    errors.StaleDecision: Status(409, "ABORTED", "conflict_error"),
    errors.RateLimited: Status(429, "RESOURCE_EXHAUSTED", "rate_limit_error"),
    errors.PrivacyViolation: Status(403, "PERMISSION_DENIED", "permission_error"),
    errors.NoPerformer: Status(503, "UNAVAILABLE", "server_error"),
    errors.SpecialistUnavailable: Status(503, "UNAVAILABLE", "server_error"),
    errors.WrongVersion: Status(503, "UNAVAILABLE", "server_error"),
    errors.GeneralistUnavailable: Status(502, "UNAVAILABLE", "server_error"),
    errors.GeneralistRefused: Status(400, "INVALID_ARGUMENT", "invalid_request_error"),
    errors.DeadlineExceeded: Status(504, "DEADLINE_EXCEEDED", "server_error"),
    errors.PlanFailed: Status(502, "ABORTED", "server_error"),
    errors.StepFailed: Status(502, "ABORTED", "server_error"),
    errors.StorageFull: Status(507, "RESOURCE_EXHAUSTED", "server_error"),
    errors.CorruptModel: Status(500, "DATA_LOSS", "server_error"),
    errors.SiteError: Status(503, "UNAVAILABLE", "server_error"),
}

#: what a refusal of the generalist's becomes, by its HTTP status; others are INVALID_ARGUMENT
_REFUSED: dict[int, tuple[str, str]] = {
    404: ("NOT_FOUND", "not_found_error"),
    409: ("ABORTED", "conflict_error"),
    413: ("RESOURCE_EXHAUSTED", "invalid_request_error"),
    429: ("RESOURCE_EXHAUSTED", "rate_limit_error"),
}

#: for answers of proxies between client and site, which know no codes of ours
_BY_HTTP: dict[int, type[ShoalError]] = {
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    408: errors.DeadlineExceeded,
    409: errors.Conflict,
    413: errors.RequestTooLarge,
    429: errors.RateLimited,
    504: errors.DeadlineExceeded,
}

_BY_GRPC: dict[str, type[ShoalError]] = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "NOT_FOUND": errors.NotFound,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAVAILABLE": errors.SiteError,
    "RESOURCE_EXHAUSTED": errors.RequestTooLarge,
}


def status_of(error: ShoalError) -> Status:
    """The row of the error's class, else of its nearest base; a refusal of the generalist's keeps its own status."""
    if isinstance(error, GeneralistRefused):
        grpc, kind = _REFUSED.get(error.status, ("INVALID_ARGUMENT", "invalid_request_error"))
        return Status(error.status, grpc, kind)
    return next(TABLE[base] for base in type(error).__mro__ if base in TABLE)


def error_object(error: ShoalError) -> dict[str, Any]:
    """OpenAI's error object: `message`, `type`, `param`, `code`.

    `code` is the class's, but for a refusal of the generalist's, which keeps the generalist's code where it gave one.
    """
    code = error.code
    if isinstance(error, GeneralistRefused) and error.upstream_code:
        code = error.upstream_code
    return {"message": str(error), "type": status_of(error).kind, "param": error.param, "code": code}


def internal_error() -> ShoalError:
    """What a client sees of an error that is a fault of Shoal's: nothing of its inside."""
    return ShoalError("Shoal failed over this request.", remedy="The site's log says why.")


def classes() -> Iterator[type[ShoalError]]:
    """The whole error tree, bases first."""
    todo: list[type[ShoalError]] = [ShoalError]
    while todo:
        kind = todo.pop(0)
        yield kind
        todo.extend(kind.__subclasses__())


def rebuild(
    body: object,
    *,
    code: str | None,
    http: int | None = None,
    grpc: str | None = None,
    retry_after_s: float | None = None,
) -> ShoalError:
    """The error that a site sent, as the exception that it was there.

    Args:
        body: the response's JSON, `{"error": {...}}`; anything else is shown as it is.
        code: the class's code (`X-Shoal-Error`); None where something other than a site answered.
        http: the response's status, if it came by HTTP.
        grpc: the name of the status code, if it came by gRPC.
    """
    inner = body.get("error") if isinstance(body, dict) else None
    found: dict[str, Any] = inner if isinstance(inner, dict) else {}
    message = str(found.get("message") or body or "The site answered with an error and no message.")
    kind = next((kind for kind in classes() if kind.code == code), None)
    if kind is None:
        kind = _BY_HTTP.get(http or 0) or _BY_GRPC.get(grpc or "")
    if kind is None:
        kind = errors.InvalidRequest if http is not None and 400 <= http < 500 else errors.SiteError
    param = found.get("param")
    error = kind(message, param=None if param is None else str(param))
    if isinstance(error, GeneralistRefused):
        error.status = http or error.status
        upstream = found.get("code")
        error.upstream_code = "" if upstream in (None, GeneralistRefused.code) else str(upstream)
    if isinstance(error, RateLimited) and retry_after_s is not None:
        error.retry_after_s = retry_after_s
    return error
