"""A stand-in for a large model, in a process of its own: OpenAI-compatible, so that the demo needs no account anywhere.

    python -m shoal.examples.sales_report.standin --port 8790 --seed 0 --latency-ms 120

Owns the rules and templates by which it answers the sales-report assistant's three jobs. It is no language model and says so: in
its model's name, in `/v1/models` and in each answer's `system_fingerprint`. Its latency is really waited; its price is only stated.
Must not know Shoal: it imports nothing of it, so that nothing it does can leak into specialists or their evaluation.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

MODEL = "stand-in-generalist"
FINGERPRINT = "stand-in: fixed rules and templates, not a language model"
#: USD per million tokens, as a large hosted model might ask; stated, never charged
PRICE_IN, PRICE_OUT = 2.50, 10.00

CHANNELS = {"online": "online sales", "stores": "store sales", "partners": "partner sales"}
#: growth from which on a channel gets more budget, and days out of stock from which on they are the cause. Few records of the made-up
#: world lie near either, so that what decides can be learnt from a hundred questions
BUDGET_FROM = 30
STOCK_OUT_FROM = 15

#: (tone, language) -> sentences for growth and for decline
SENTENCES: Mapping[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("formal", "English"): (
        (
            "Revenue for {name} increased by {size}%, driven mainly by {driver}.",
            "For {name}, revenue rose by {size}%, largely on account of {driver}.",
            "{name} recorded revenue growth of {size}%, to which {driver} contributed most.",
        ),
        (
            "Revenue for {name} decreased by {size}%, mainly because of {driver}.",
            "For {name}, revenue fell by {size}%, largely on account of {driver}.",
            "{name} recorded a revenue decline of {size}%, for which {driver} was the main cause.",
        ),
    ),
    ("casual", "English"): (
        (
            "Good news: {name} is up {size}%, mostly thanks to {driver}!",
            "{name} went up {size}%, and {driver} did the trick.",
            "We gained {size}% with {name}, cheers to {driver}!",
        ),
        (
            "Ouch: {name} is down {size}%, mostly down to {driver}.",
            "{name} dropped {size}%, and {driver} is to blame.",
            "We lost {size}% with {name}, no thanks to {driver}.",
        ),
    ),
    ("formal", "German"): (
        (
            "Für {name} stieg der Umsatz um {size} %, vor allem aufgrund von {driver}.",
            "{name} verzeichnete ein Umsatzwachstum von {size} %, maßgeblich getragen von {driver}.",
            "Der Umsatz für {name} erhöhte sich um {size} %; wesentlich war {driver}.",
        ),
        (
            "Für {name} sank der Umsatz um {size} %, vor allem aufgrund von {driver}.",
            "{name} verzeichnete einen Umsatzrückgang von {size} %, maßgeblich wegen {driver}.",
            "Der Umsatz für {name} verringerte sich um {size} %; wesentlich war {driver}.",
        ),
    ),
    ("casual", "German"): (
        (
            "Läuft bei {name}: {size} % plus, vor allem dank {driver}!",
            "{name} hat {size} % zugelegt, {driver} sei Dank.",
            "Stark: {size} % rauf bei {name}, und das liegt an {driver}.",
        ),
        (
            "Autsch: {name} liegt {size} % im Minus, vor allem wegen {driver}.",
            "{name} hat {size} % verloren, schuld ist {driver}.",
            "Schade: {size} % runter bei {name}, und das liegt an {driver}.",
        ),
    ),
}

ONLY_THREE_JOBS = (
    "(stand-in) I only know three jobs: writing a plan for a question about sales, choosing the driver and the recommended action "
    "for a JSON record of sales figures, and writing a JSON record as a sentence. I am no language model; for anything else, "
    "name a real one with --generalist URL --model NAME."
)

_QUARTER = re.compile(r"\bQ([1-4]) (20\d\d)\b")
_BY = re.compile(r"\bby (region|product)\b(?: (?:for|in) ([A-Z][A-Za-z]*(?: [A-Z][A-Za-z]*)*)(?=[ .,?]|$))?")


def plan(question: str) -> dict[str, Any]:
    """The plan that a question about sales asks for. Raises ValueError for other questions."""
    by = _BY.search(question)
    if by is None:
        raise ValueError("no question about sales")
    arguments: dict[str, Any] = {"period": _period(question), "by": by[1], "top": 8}
    if by[2] is not None:
        arguments["where"] = {"product" if by[1] == "region" else "region": by[2]}
    low = question.lower()
    tone = "casual" if "casual" in low else "formal"
    language = "German" if "german" in low else "English"
    record = {
        "name": "$item.name",
        "growth": "$item.growth",
        "driver": "$insight.$index.driver",
        "tone": tone,
        "language": language,
    }
    return {
        "steps": [
            {"id": "data", "use": "tool/sales_figures", "input": arguments},
            {"id": "insight", "use": "skill/analyse", "each": "$data.records", "input": "$item"},
            {"id": "text", "use": "skill/write", "each": "$data.records", "input": record},
        ],
        "result": "$text",
    }


def _period(question: str) -> str:
    if match := _QUARTER.search(question):
        return f"{match[2]}-Q{match[1]}"
    return next(
        (
            said
            for said in ("last quarter", "this quarter", "last year", "this year")
            if said in question.lower()
        ),
        "last quarter",
    )


def analyse(record: Mapping[str, Any]) -> dict[str, str]:
    """Driver and action that follow from a record's figures. Raises KeyError, TypeError or ValueError for other records."""
    growth, price = float(record["growth"]), float(record["price_effect"])
    channels = {name: float(record[name]) for name in CHANNELS}
    fell = growth < 0
    if fell and float(record["returns_rate"]) >= 8:
        return {"driver": "product returns", "action": "audit product quality"}
    if fell and float(record["stock_out_days"]) >= STOCK_OUT_FROM:
        return {"driver": "stock shortages", "action": "raise safety stock"}
    direction = -1 if fell else 1
    best = max(channels, key=lambda name: direction * channels[name])
    if direction * price > direction * channels[best]:
        return {"driver": "pricing", "action": "review the price list" if fell else "keep the new price"}
    if fell:
        action = "repair the channel"
    elif growth >= BUDGET_FROM:
        action = "raise the channel budget"
    else:
        action = "keep the channel plan"
    return {"driver": CHANNELS[best], "action": action}


def write(record: Mapping[str, Any], seed: int) -> str:
    """A sentence for a record; the same record and seed give the same one. Raises KeyError or TypeError for other records."""
    growth = record["growth"]
    if isinstance(growth, bool) or not isinstance(growth, int | float):
        raise TypeError("growth is no number")
    up, down = SENTENCES[record["tone"], record["language"]]
    templates = up if growth >= 0 else down
    text = json.dumps([seed, record["name"], growth, record["driver"], record["tone"], record["language"]])
    index = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % len(templates)
    return templates[index].format(name=record["name"], size=f"{abs(growth):g}", driver=record["driver"])


def reply(messages: Sequence[Mapping[str, Any]], seed: int) -> str:
    """What the stand-in says to a conversation."""
    system = " ".join(_text(m) for m in messages if m.get("role") in ("system", "developer")).lower()
    user = next((_text(m) for m in reversed(messages) if m.get("role") == "user"), "")
    try:
        if "planner" in system:
            return json.dumps(plan(user), ensure_ascii=False)
        record = json.loads(user)
        if not isinstance(record, dict):
            return ONLY_THREE_JOBS
        if "recommended action" in system:
            return json.dumps(analyse(record))
        if "sentence" in system:
            return write(record, seed)
    except (ValueError, KeyError, TypeError):
        return ONLY_THREE_JOBS
    return ONLY_THREE_JOBS


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""


def count_tokens(text: str) -> int:
    """Words and marks: near what a real tokenizer counts for plain English, and stated as such."""
    return len(re.findall(r"\w{1,6}|[^\w\s]", text))


@dataclass(frozen=True, slots=True)
class StandIn:
    """The server's behaviour: `latency_ms` is waited before an answer's end, with a spread of up to a quarter of it."""

    seed: int = 0
    latency_ms: float = 120.0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/healthz", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    def delay_s(self, messages: object) -> float:
        """How long an answer takes: seeded by the conversation, so a rerun waits alike."""
        spread = random.Random(f"{self.seed}:{messages}").random()
        return self.latency_ms * (1 + 0.25 * spread) / 1000

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "stand_in": True})

    async def _models(self, request: web.Request) -> web.Response:
        model = {
            "id": MODEL,
            "object": "model",
            "created": 0,
            "owned_by": FINGERPRINT,
            "stand_in": True,
            "stated_latency_ms": self.latency_ms,
            "stated_price_usd_per_million_tokens": {"in": PRICE_IN, "out": PRICE_OUT},
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            messages = body["messages"]
            if not (isinstance(messages, list) and messages and all(isinstance(m, dict) for m in messages)):
                raise ValueError("`messages` must be a list with at least one message")
        except (ValueError, KeyError, TypeError) as error:
            message = {
                "message": f"(stand-in) no chat request: {error}",
                "type": "invalid_request_error",
                "param": "messages",
                "code": None,
            }
            return web.json_response({"error": message}, status=400)
        text = reply(messages, self.seed)
        usage = _usage(messages, text)
        delay_s = self.delay_s(messages)
        if body.get("stream"):
            include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return await self._stream(request, text, delay_s, usage if include_usage else None)
        await asyncio.sleep(delay_s)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": None,
        }
        return web.json_response({**_head("chat.completion"), "choices": [choice], "usage": usage})

    async def _stream(
        self, request: web.Request, text: str, delay_s: float, usage: dict[str, int] | None
    ) -> web.StreamResponse:
        """Half of the delay before the first word, the rest between the words."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        head = _head("chat.completion.chunk")
        words = re.findall(r"\S+\s*", text)

        async def send(choices: list[dict[str, Any]], **extra: Any) -> None:
            await response.write(f"data: {json.dumps({**head, 'choices': choices, **extra})}\n\n".encode())

        await asyncio.sleep(delay_s / 2)
        for number, word in enumerate(words):
            delta = {"role": "assistant", "content": word} if number == 0 else {"content": word}
            await send([{"index": 0, "delta": delta, "finish_reason": None}])
            await asyncio.sleep(delay_s / 2 / len(words))
        await send([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if usage is not None:
            await send([], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _head(kind: str) -> dict[str, Any]:
    return {
        "id": f"standin-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
        "system_fingerprint": FINGERPRINT,
    }


def _usage(messages: Sequence[Mapping[str, Any]], text: str) -> dict[str, int]:
    prompt = sum(count_tokens(_text(m)) + 4 for m in messages)
    completion = count_tokens(text)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def serve(standin: StandIn, *, host: str, port: int, with_stdin: bool) -> None:
    """Serve until cancelled, or until standard input ends where `with_stdin`; prints one JSON line once it listens."""
    runner = web.AppRunner(standin.application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        ready = {"base_url": f"http://{host}:{bound}/v1", "model": MODEL, "stand_in": True}
        print(json.dumps(ready), flush=True)
        print(
            f"{MODEL} on http://{host}:{bound}/v1 ({FINGERPRINT}); stated latency {standin.latency_ms:g} ms, "
            f"stated price {PRICE_IN:.2f}/{PRICE_OUT:.2f} USD per million tokens in/out",
            file=sys.stderr,
            flush=True,
        )
        ended = asyncio.Event()
        if with_stdin:
            loop = asyncio.get_running_loop()

            def watch() -> None:
                sys.stdin.buffer.read()
                loop.call_soon_threadsafe(ended.set)

            threading.Thread(target=watch, daemon=True).start()
        await ended.wait()
    finally:
        await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="standin", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=0, help="0 takes a free one; the first line printed names it"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the wording")
    parser.add_argument("--latency-ms", type=float, default=120.0)
    parser.add_argument("--with-stdin", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(argv)
    standin = StandIn(seed=options.seed, latency_ms=options.latency_ms)
    try:
        asyncio.run(serve(standin, host=options.host, port=options.port, with_stdin=options.with_stdin))
    except OSError as error:
        print(
            f"The stand-in cannot listen on {options.host}:{options.port}: {error.strerror}. Name another --port.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
