"""Chat calls whose model is `agent/<plan>`: a question in, a run of the plan, its result as the answer.

Pure but for the port `Plans`. The run itself, its steps and their records are the router actor's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from shoal.agents.traces.chat import Answer, ChatRequest, Privacy
from shoal.errors import DeadlineExceeded, InvalidRequest
from shoal.serve.ports import Plans, RunAsked
from shoal.serve.status import rebuild

PREFIX = "agent/"


def is_agent(request: ChatRequest) -> bool:
    """Whether the request names an agent."""
    return request.model.startswith(PREFIX)


def input_of(request: ChatRequest) -> dict[str, Any]:
    """The run's input object: the newest user message is the question."""
    question = request.last_user_text
    if not question.strip():
        raise InvalidRequest(
            "An agent answers a question, and the request has no user message with text.",
            remedy='Send {"role": "user", "content": "..."}.',
            param="messages",
        )
    return {"question": question}


def text_of_output(output: Any) -> str:
    """A run's result as a message: text as it is, a list of texts as lines, anything else as JSON."""
    if isinstance(output, str):
        return output
    if isinstance(output, list) and output and all(isinstance(item, str) for item in output):
        return "\n".join(output)
    return json.dumps(output, ensure_ascii=False)


async def run_agent(
    plans: Plans, request: ChatRequest, *, run_id: str, caller: str, privacy: Privacy, deadline_s: float
) -> tuple[Answer, dict[str, Any]]:
    """Run the agent's plan to its end; returns the answer and the run.

    Raises:
        InvalidRequest, NotFound: no question, or no such agent.
        DeadlineExceeded: the run takes longer; it is cancelled.
        ShoalError: what the run failed with.
    """
    name = request.model.removeprefix(PREFIX)
    asked = RunAsked(run_id=run_id, name=name, input=input_of(request), privacy=privacy, caller=caller)
    try:
        async with asyncio.timeout(deadline_s):
            await plans.start(asked)
            async for _ in plans.events(run_id):
                pass
            run = await plans.get(run_id)
    except TimeoutError:
        await plans.cancel(run_id)
        raise DeadlineExceeded(
            f"The run {run_id} of {PREFIX}{name} did not end within {deadline_s:g} s, and was cancelled.",
            remedy="Raise `serve.deadline_s`, or start it with POST /v1/plans/{name}/runs and ask for it later.",
        ) from None
    except asyncio.CancelledError:
        await plans.cancel(run_id)
        raise
    if run["status"] != "done":
        raise run_error(run)
    return Answer(content=text_of_output(run["output"]), model=f"{PREFIX}{name}"), run


def run_error(run: Mapping[str, Any]) -> Exception:
    """The error that a run ended with, as it was raised in it."""
    told = run.get("error") or {}
    body = told if isinstance(told, dict) else {"message": str(told)}
    message = body.get("message") or f"it was {run['status']}"
    text = f"The run {run['id']} of {run['plan']} did not come to its end: {message}"
    return rebuild({"error": {**body, "message": text}}, code=body.get("code") or "plan_failed")
