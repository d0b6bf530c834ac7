"""Every error that Shoal raises on purpose, and what each one means at each way out.

    ShoalError
    |-- ConfigError             a configuration file, flag or environment variable is wrong
    |-- UsageError              a command cannot do what was asked, as it was asked
    |-- DataError               a file handed in cannot be used as it is
    |-- InvalidRequest          a request that no performer could answer
    |   `-- RequestTooLarge     its body is larger than the site takes
    |-- Unauthenticated         no key, or one that is not known
    |-- PermissionDenied        the key's scopes do not cover the call
    |-- NotFound                the named task, specialist, trace or run does not exist
    |-- Conflict                the state of the thing forbids the change
    |   `-- StaleDecision       it has changed since the change was decided
    |-- RateLimited             over the key's rate or budget
    |-- PrivacyViolation        no performer may see the data
    |-- NoPerformer             no specialist answers and there is no generalist
    |-- SpecialistUnavailable   the specialist does not answer
    |   `-- WrongVersion        a replica answered as another version than it was asked for
    |-- GeneralistUnavailable   the generalist does not answer, or answers nonsense
    |-- GeneralistRefused       the generalist answered with an error of the client's making
    |-- DeadlineExceeded        nobody answered in time
    |-- PlanFailed              a run of a plan did not come to its end
    |   `-- StepFailed          a step could not be performed
    |-- StorageFull             the disk has no room for the record of the call
    |-- CorruptModel            a model folder is not what its card says
    `-- SiteError               Ray, a port or a process of the site is not as needed

A message states the rule, the value received and the remedy. `serve/status.py` maps the tree to HTTP and gRPC.
"""

from __future__ import annotations

from typing import Any


class ShoalError(Exception):
    """Base of all errors that Shoal raises on purpose.

    Args:
        message: what rule was broken, and by which value.
        remedy: what to do about it; shown after the message.
        param: the path to the offending field, if there is one.
    """

    #: what a client sees as `error.type` / `error.code`
    code: str = "internal_error"
    #: exit code of a command that ends with this error
    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.remedy, self.param), self.__dict__)


def _rebuild(kind: type[ShoalError], message: str, remedy: str, param: str | None) -> ShoalError:
    return kind(message, remedy=remedy, param=param)


class ConfigError(ShoalError):
    code = "invalid_configuration"
    exit_code = 2


class UsageError(ShoalError):
    code = "invalid_usage"
    exit_code = 2


class DataError(ShoalError):
    code = "invalid_data"


class InvalidRequest(ShoalError):
    code = "invalid_request"


class RequestTooLarge(InvalidRequest):
    code = "request_too_large"


class Unauthenticated(ShoalError):
    code = "invalid_api_key"


class PermissionDenied(ShoalError):
    code = "permission_denied"


class NotFound(ShoalError):
    code = "not_found"


class Conflict(ShoalError):
    code = "conflict"


class StaleDecision(Conflict):
    """What was decided on is no longer so: read it, and decide again."""

    code = "stale_decision"


class RateLimited(ShoalError):
    code = "rate_limit_exceeded"
    #: seconds after which the same call is let in
    retry_after_s: float = 1.0


class PrivacyViolation(ShoalError):
    code = "privacy_violation"


class NoPerformer(ShoalError):
    code = "no_performer"


class SpecialistUnavailable(ShoalError):
    code = "specialist_unavailable"


class WrongVersion(SpecialistUnavailable):
    """A replica answered as another version than the one that was asked, or with other files than that version's."""

    code = "wrong_version"


class GeneralistUnavailable(ShoalError):
    code = "generalist_unavailable"


class GeneralistRefused(ShoalError):
    """The generalist's own error for this request, passed on with its HTTP status."""

    code = "generalist_refused"
    #: the HTTP status that the generalist answered with (400 to 499)
    status: int = 400
    #: the generalist's own `error.code`, e.g. `context_length_exceeded`; empty if it gave none
    upstream_code: str = ""


class DeadlineExceeded(ShoalError):
    code = "deadline_exceeded"


class PlanFailed(ShoalError):
    code = "plan_failed"


class StepFailed(PlanFailed):
    code = "step_failed"


class StorageFull(ShoalError):
    code = "storage_full"


class CorruptModel(ShoalError):
    code = "corrupt_model"


class SiteError(ShoalError):
    code = "site_error"
