"""Token counts where nobody gives any. A stated approximation, so that a specialist's answers carry `usage` at all.

One token for every four bytes of UTF-8, rounded up, and four for each message's frame: within about a third of the common
byte-pair vocabularies on English text and JSON. No tokenizer is loaded for it: it costs about a microsecond a kilobyte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.agents.traces.chat import Answer, ChatRequest, Usage, text_of

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4


def tokens_of(text: str) -> int:
    """Approximate tokens of a text."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def prompt_tokens(request: ChatRequest) -> int:
    """Approximate tokens of all messages; tool definitions and pictures are not counted."""
    return sum(TOKENS_PER_MESSAGE + tokens_of(text_of(message)) for message in request.messages)


def estimate_usage(
    request: ChatRequest, content: str | None, tool_calls: Sequence[Mapping[str, Any]] = ()
) -> Usage:
    """Approximate usage of a request and its answer."""
    said = tokens_of(content or "")
    for call in tool_calls:
        function = call.get("function") or {}
        said += tokens_of(str(function.get("name", ""))) + tokens_of(str(function.get("arguments", "")))
    return Usage(prompt_tokens=prompt_tokens(request), completion_tokens=said)


def usage_of(request: ChatRequest, answer: Answer) -> Usage:
    """The usage that came with an answer, else an estimate."""
    if answer.usage.prompt_tokens or answer.usage.completion_tokens:
        return answer.usage
    return estimate_usage(request, answer.content, answer.tool_calls)
