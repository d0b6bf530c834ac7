"""What a request asks for that a specialist cannot honour, so that the call goes to the generalist.

A specialist answers as the log's calls were answered: one choice, deterministically, from text. So a setting matters only
where it differs from what the log's calls had (`match["asks"]`, made in `agents/tasks/match_data.py`). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shoal.agents.registry.records import OutputKind
from shoal.agents.routing.snapshot import Route
from shoal.agents.tasks.features import format_of
from shoal.agents.traces.chat import ChatRequest

#: settings that change nothing about a deterministic answer
_HARMLESS = frozenset(
    [
        "model",
        "messages",
        "tools",
        "metadata",
        "user",
        "stream",
        "stream_options",
        "seed",
        "store",
        "response_format",
        "n",
        "logprobs",
        "top_logprobs",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "reasoning_effort",
        "parallel_tool_calls",
        "prediction",
    ]
)
#: values that mean the same as leaving a setting out
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "stop": ([], ""),
    "modalities": (["text"],),
    "tool_choice": ("auto",),
    "repetition_penalty": (1, 1.0),
    "best_of": (1,),
    "functions": ([],),
    "verbosity": ("medium",),
}
#: OpenAI's default; a client that leaves the temperature out has it
_DEFAULT_TEMPERATURE = 1.0
#: an answer of c characters surely fits c / 3 tokens
_CHARS_PER_TOKEN = 3


def unmet(request: ChatRequest, route: Route) -> str | None:
    """The first thing that a specialist of this route cannot honour, in plain words; None where it can honour all.

    The temperature matters where it is above 1 and above every temperature of the log's calls: then the client asks for
    variety, and a specialist gives the same answer each time. For free text it matters already above the log's highest,
    if the log's calls set one (else the default, 1, is taken as theirs).
    """
    body = request.body
    asks: Mapping[str, Any] = route.match.get("asks") or {}
    if (body.get("n") or 1) > 1:
        return f"it asks for n = {body['n']} answers; a specialist gives one"
    if body.get("logprobs") or body.get("top_logprobs"):
        return "it asks for logprobs"
    return (
        _content(request, asks)
        or _tools_and_format(request, asks)
        or _temperature(body, asks, route.output_kind)
        or _length(body, asks)
        or _settings(body, asks)
    )


def _content(request: ChatRequest, asks: Mapping[str, Any]) -> str | None:
    for message in request.messages:
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                kind = part.get("type")
                if kind not in ("text", "refusal"):
                    return f"it has a part of type {kind}; a specialist reads text only"
    role, known = request.messages[-1]["role"], asks.get("last_roles") or ()
    if role == "assistant" and role not in known:
        return "its last message is the assistant's, to be continued"
    return None


def _tools_and_format(request: ChatRequest, asks: Mapping[str, Any]) -> str | None:
    if request.tools and not asks.get("tools"):
        return "it offers tools, and the calls that the specialist learnt from offered none"
    if request.tools and (choices := asks.get("tool_choices")):
        choice = json.dumps(request.body.get("tool_choice") or "auto", sort_keys=True, default=str)
        if choice not in choices:
            return f"it sets tool_choice {choice}, as no call did that the specialist learnt from"
    asked = format_of(request.response_format)
    if asked not in (asks.get("formats") or ("",)):
        return f"it asks for response_format {asked.partition(':')[0]}, which the calls learnt from did not ask for"
    return None


def _temperature(body: Mapping[str, Any], asks: Mapping[str, Any], kind: OutputKind) -> str | None:
    temperature = body.get("temperature")
    if temperature is None:
        return None
    highest = asks.get("temperature")
    usual = _DEFAULT_TEMPERATURE if highest is None else float(highest)
    limit = usual if kind is OutputKind.TEXT else max(usual, _DEFAULT_TEMPERATURE)
    if float(temperature) > limit:
        return (
            f"it asks for temperature {temperature}, above {limit:g}; a specialist does not vary its answers"
        )
    return None


def _length(body: Mapping[str, Any], asks: Mapping[str, Any]) -> str | None:
    limits = [int(v) for name in ("max_tokens", "max_completion_tokens") if (v := body.get(name)) is not None]
    if not limits:
        return None
    learnt, chars = asks.get("max_tokens"), int(asks.get("answer_chars") or 0)
    if (learnt is not None and min(limits) >= int(learnt)) or min(limits) * _CHARS_PER_TOKEN >= chars:
        return None
    return f"it allows {min(limits)} tokens; the task's answers have up to {chars} characters"


def _settings(body: Mapping[str, Any], asks: Mapping[str, Any]) -> str | None:
    learnt: Mapping[str, Any] = asks.get("settings") or {}
    for name, value in body.items():
        if name in _HARMLESS or value is None or value in _NEUTRAL.get(name, ()):
            continue
        if json.dumps(value, sort_keys=True, default=str) not in learnt.get(name, ()):
            return f"it sets {name}, as no call did that the specialist learnt from"
    return None
