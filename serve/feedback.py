"""A client's feedback as it comes in, checked. Shared by HTTP and gRPC."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal.errors import InvalidRequest


class FeedbackBody(BaseModel):
    """`score` in [-1, 1]; `correction` is the message that the answer should have been, as OpenAI's JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    trace_id: str = Field(min_length=1, max_length=200)
    score: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    correction: dict[str, Any] | None = None
    comment: str = Field(default="", max_length=20_000)


def read_feedback(body: object) -> FeedbackBody:
    """Raises InvalidRequest with the path to the first bad field, or where nothing is said at all."""
    try:
        said = FeedbackBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(
            f"`{path}`: {first['msg']}, got {str(first.get('input'))[:80]!r}.",
            remedy='Send {"trace_id": ..., "score": -1 to 1, "correction": {...}, "comment": ...}.',
            param=path or None,
        ) from None
    if said.correction is not None and not ("content" in said.correction or "tool_calls" in said.correction):
        raise InvalidRequest(
            "`correction` must be a message with `content` or `tool_calls`.",
            remedy='For example {"role": "assistant", "content": "..."}.',
            param="correction",
        )
    if said.score is None and said.correction is None and not said.comment:
        raise InvalidRequest(
            "Feedback must have a `score`, a `correction` or a `comment`.",
            remedy="Send one of them.",
            param="score",
        )
    return said
