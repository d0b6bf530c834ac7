"""A streamed answer on its way to the client, recorded before its last piece goes out.

Knows nothing of transport: HTTP and gRPC both read OpenAI's chunks from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.traces.chat import Delta, Usage
from shoal.agents.traces.trace import TraceId
from shoal.errors import ShoalError
from shoal.serve.collect import Collector


class Settle(Protocol):
    """Records a stream's call, once; returns the usage that the client is told. Raises StorageFull."""

    def __call__(self, collected: Collector, incomplete: str) -> Usage: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """What is known of a stream before its first piece; as in `Served`."""

    completion_id: str
    created: int
    trace_id: TraceId
    served_by: str
    node: str
    tier: str
    run_id: str = ""


class ServedStream:
    """OpenAI's chunks of one answer, as plain dicts. The consumer closes it, also when it read it to the end.

    Pieces that carry a finish reason are held back until the answer is whole and recorded. Closed before that, the call
    is broken off upstream and recorded as incomplete.
    """

    def __init__(
        self,
        *,
        head: StreamHead,
        first: Delta,
        source: AsyncIterator[Delta],
        settle: Settle,
        include_usage: bool,
        on_first_token: Callable[[], None] = lambda: None,
    ) -> None:
        self.head = head
        self._first = first
        self._source = source
        self._settle = settle
        self._include_usage = include_usage
        self._on_first_token = on_first_token
        self._collected = Collector()
        #: the call is recorded (or recording it failed): exactly once
        self._settled = False
        self._chunks = self._run()

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._chunks

    async def aclose(self) -> None:
        """End the stream; records it as incomplete where it was not read to its end. Never raises StorageFull."""
        if not self._settled:
            try:
                self._finish("client_closed")
            except ShoalError:
                # nobody is there any more to be told
                self._settled = True
        await _close(self._chunks)
        await _close(self._source)

    async def _run(self) -> AsyncIterator[dict[str, Any]]:
        held: list[dict[str, Any]] = []
        try:
            begun = spoken = False
            async for delta in self._deltas():
                self._collected.add(delta)
                if not spoken and _says_something(delta):
                    spoken = True
                    self._on_first_token()
                if delta.chunk is not None and not delta.chunk.get("choices"):
                    continue
                chunk = delta.to_openai(
                    completion_id=self.head.completion_id,
                    created=self.head.created,
                    model=self.head.served_by,
                    first=not begun,
                )
                begun = True
                chunk.pop("usage", None)
                if any(choice.get("finish_reason") for choice in chunk["choices"]):
                    held.append(chunk)
                else:
                    yield chunk
        except ShoalError as error:
            self._finish(error.code)
            raise
        usage = self._finish("" if self._collected.finished else "no_finish_reason")
        for chunk in held:
            yield chunk
        if self._include_usage:
            yield {
                "id": self.head.completion_id,
                "object": "chat.completion.chunk",
                "created": self.head.created,
                "model": self.head.served_by,
                "choices": [],
                "usage": usage.to_openai(),
            }

    async def _deltas(self) -> AsyncIterator[Delta]:
        yield self._first
        async for delta in self._source:
            yield delta

    def _finish(self, incomplete: str) -> Usage:
        self._settled = True
        return self._settle(self._collected, incomplete)


def _says_something(delta: Delta) -> bool:
    """Whether there is a piece of an answer in it: text, reasoning or a call; a chunk that only names the role has none."""
    if delta.chunk is None:
        return bool(delta.content)
    parts = [choice.get("delta") or {} for choice in delta.chunk.get("choices") or ()]
    return any(value for part in parts for name, value in part.items() if name != "role")


async def _close(iterator: AsyncIterator[Any]) -> None:
    close: Callable[[], Any] | None = getattr(iterator, "aclose", None)
    if close is not None:
        await close()
