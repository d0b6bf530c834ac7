"""The demo's rounds: questions put to the agent, and the generalist itself asked for the same plans and analyses.

Knows nothing of learning, and judges no answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from shoal.agents.plans.planner import read_json_answer
from shoal.config import GeneralistConfig
from shoal.errors import GeneralistUnavailable, ShoalError
from shoal.examples.sales_report.agent import NAME, sales_report
from shoal.examples.sales_report.questions import Question, questions
from shoal.examples.sales_report.scoring import Part
from shoal.serve.client import AsyncClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the demo is. `latency_ms` is the stand-in's; concurrency counts runs."""

    seed: int = 0
    log_questions: int = 100
    unseen_questions: int = 50
    log_concurrency: int = 6
    unseen_concurrency: int = 3
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


def log_questions(scale: Scale) -> list[Question]:
    """The first round's."""
    return questions(scale.log_questions, seed=scale.seed)


def unseen_questions(scale: Scale, log: Sequence[Question]) -> list[Question]:
    """The second round's: none of them is in the log."""
    return questions(scale.unseen_questions, seed=scale.seed + 1, exclude=[question.text for question in log])


def ask_agent(
    url: str, asked: Sequence[Question], concurrency: int, teller: Teller, text: str, timeout_s: float
) -> list[dict[str, Any]]:
    """Run the agent on each question; the runs, in order.

    Raises:
        GeneralistUnavailable: the first question, asked alone, has no answer.
    """

    async def go() -> list[dict[str, Any]]:
        room = asyncio.Semaphore(concurrency)
        async with AsyncClient(url, timeout=timeout_s) as client:
            with teller.bar(text, len(asked)) as advance:

                async def one(question: Question) -> dict[str, Any]:
                    async with room:
                        run = await _run(client, question)
                    advance()
                    return run

                # one alone first, so that a generalist that is away is one clear error and not a hundred
                first = await one(asked[0])
                if first["status"] != "done":
                    raise GeneralistUnavailable(
                        f"The first of the {text} was not answered: {first['error']['message']}",
                        remedy="Check --generalist, --model and the key; without them a stand-in answers.",
                    )
                return [first, *await asyncio.gather(*(one(question) for question in asked[1:]))]

    return asyncio.run(go())


async def _run(client: AsyncClient, question: Question) -> dict[str, Any]:
    run_id = ""
    try:
        async for event in client.plans.run(NAME, {"question": question.text}):
            run_id = event["run_id"]
        return await client.plans.get(run_id)
    except ShoalError as error:
        told = {"code": error.code, "message": error.message}
        return {
            "id": run_id,
            "status": "failed",
            "input": {"question": question.text},
            "error": told,
            "steps": [],
            "cost_usd": None,
        }


async def ask_directly(
    generalist: GeneralistConfig, parts: Iterable[Part], concurrency: int, teller: Teller
) -> dict[str, Any]:
    """What the generalist itself says to the plans and analyses that were asked for: what agreement is measured against.

    Returns:
        key of a part -> the JSON value; what is no JSON, or was not answered, is left out.
    """
    plan = sales_report()
    systems = {"plan": plan.planner, "analyse": plan.skills["analyse"].system}
    wanted = {part.key: part for part in parts if part.step in systems and part.given is not None}
    key = generalist.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{generalist.base_url.rstrip('/')}/chat/completions"
    room = asyncio.Semaphore(concurrency)
    found: dict[str, Any] = {}
    async with httpx.AsyncClient(headers=headers, timeout=generalist.timeout_s) as client:
        with teller.bar("the same, asked of the generalist", len(wanted)) as advance:

            async def one(part: Part) -> None:
                async with room:
                    try:
                        response = await client.post(
                            url, json=_body(generalist.model, systems[part.step], part.given)
                        )
                        response.raise_for_status()
                        text = response.json()["choices"][0]["message"]["content"]
                        value, wrong = read_json_answer(str(text))
                        if not wrong:
                            found[part.key] = value
                    except (httpx.HTTPError, LookupError, ValueError):
                        pass  # what has no reference agrees with nothing
                advance()

            await asyncio.gather(*(one(part) for part in wanted.values()))
    return found


def _body(model: str, system: str, given: Any) -> Mapping[str, Any]:
    said = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": said}]
    return {"model": model, "messages": messages, "temperature": 0}
