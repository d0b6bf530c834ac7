"""The demo's calls: which ones there are, and putting them to the site or to the generalist itself.

A call that fails is a row that says so. Knows nothing of learning, and judges no answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx

from shoal.config import GeneralistConfig
from shoal.errors import GeneralistUnavailable, ShoalError
from shoal.examples.sales_report.prompts import ANALYSE, CALL_SITES, messages_for
from shoal.examples.sales_report.records import Record, figure_records, sentence_records
from shoal.examples.sales_report.scoring import Row
from shoal.serve.client import AsyncClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the demo is. Calls are per call-site; `latency_ms` is the stand-in's."""

    seed: int = 0
    log_calls: int = 750
    unseen_calls: int = 150
    log_concurrency: int = 16
    unseen_concurrency: int = 4
    latency_ms: float = 120.0


class Teller(Protocol):
    """Tells people how the story goes."""

    def say(self, text: str) -> None: ...

    def bar(self, text: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Shows progress; what it yields is called after each step."""
        ...

    def wait(self, text: str) -> AbstractContextManager[Callable[[str], None]]:
        """Shows that something is under way; what it yields is told what."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A call of the demo before it is made."""

    call_site: str
    record: Record
    novel: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        return messages_for(self.call_site, self.record)


def log_calls(scale: Scale) -> list[Called]:
    """The first round: both call-sites, mixed."""
    calls = [
        Called(call_site=site, record=record)
        for site in CALL_SITES
        for record in _records(site, scale.log_calls, seed=scale.seed)
    ]
    random.Random(scale.seed).shuffle(calls)
    return calls


def unseen_calls(scale: Scale, log: Sequence[Called]) -> list[Called]:
    """The second round: none of it in the log, and half of it with names that the log never had."""
    calls = []
    for site in CALL_SITES:
        seen = [call.record for call in log if call.call_site == site]
        half = scale.unseen_calls // 2
        for novel, count in ((False, scale.unseen_calls - half), (True, half)):
            records = _records(site, count, seed=scale.seed + 1, novel=novel, exclude=seen)
            calls += [Called(call_site=site, record=record, novel=novel) for record in records]
    random.Random(scale.seed + 1).shuffle(calls)
    return calls


def _records(
    site: str, count: int, *, seed: int, novel: bool = False, exclude: Sequence[Record] = ()
) -> list[Record]:
    make = figure_records if site == ANALYSE else sentence_records
    return make(count, seed=seed, novel=novel, exclude=exclude)


def ask_site(
    url: str,
    generalist: GeneralistConfig,
    calls: Sequence[Called],
    concurrency: int,
    teller: Teller,
    text: str,
) -> list[Row]:
    """Put calls through the site, as an unchanged agent would: it names the generalist's own model."""

    async def go() -> list[Row]:
        async with AsyncClient(url, timeout=generalist.timeout_s) as client:

            async def ask(call: Called) -> Row:
                answer = await client.chat(call.messages, model=generalist.model)
                return Row(
                    call_site=call.call_site,
                    record=call.record,
                    novel=call.novel,
                    answer=answer.text,
                    served_by=answer.served_by,
                    prompt_tokens=answer.usage.prompt_tokens,
                    completion_tokens=answer.usage.completion_tokens,
                )

            with teller.bar(text, len(calls)) as advance:
                # one alone first, so that a generalist that is away is one clear error and not fifteen hundred
                rows = await ask_all(calls[:1], ask, 1, advance)
                if rows[0].answer is None:
                    raise GeneralistUnavailable(
                        f"The first of the {text} was not answered: {rows[0].error}",
                        remedy="Check --generalist, --model and the key; without them a stand-in answers.",
                    )
                return rows + await ask_all(calls[1:], ask, concurrency, advance)

    return asyncio.run(go())


async def ask_directly(
    generalist: GeneralistConfig, calls: Sequence[Called], concurrency: int, teller: Teller
) -> list[Row]:
    """The generalist's own answers to the same calls, asked past the site: what agreement is measured against."""
    key = generalist.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{generalist.base_url.rstrip('/')}/chat/completions"
    async with httpx.AsyncClient(headers=headers, timeout=generalist.timeout_s) as client:

        async def ask(call: Called) -> Row:
            response = await client.post(url, json={"model": generalist.model, "messages": call.messages})
            response.raise_for_status()
            completion = response.json()
            usage = completion.get("usage") or {}
            return Row(
                call_site=call.call_site,
                record=call.record,
                novel=call.novel,
                answer=completion["choices"][0]["message"]["content"],
                served_by=f"generalist/{generalist.model}",
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
            )

        with teller.bar("the same, asked of the generalist", len(calls)) as advance:
            return await ask_all(calls, ask, concurrency, advance)


async def ask_all(
    calls: Sequence[Called],
    ask: Callable[[Called], Awaitable[Row]],
    concurrency: int,
    advance: Callable[[], None],
) -> list[Row]:
    """Ask all calls, `concurrency` at once, and time each. A call that fails is a row that says so."""
    room = asyncio.Semaphore(concurrency)

    async def one(call: Called) -> Row:
        async with room:
            start = time.perf_counter()
            try:
                row = await ask(call)
            except (ShoalError, httpx.HTTPError, LookupError, ValueError) as error:
                row = Row(
                    call_site=call.call_site,
                    record=call.record,
                    novel=call.novel,
                    answer=None,
                    error=str(error),
                )
            row = replace(row, latency_ms=(time.perf_counter() - start) * 1000)
            advance()
            return row

    return list(await asyncio.gather(*(one(call) for call in calls)))
