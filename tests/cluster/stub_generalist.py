"""A generalist for the cluster tests: an OpenAI-compatible server in a process of its own that sorts tickets right."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from shoal.examples.sales_report.standin import reply

_WORDS = {
    "billing": ("invoice", "refund", "charged", "credit", "payment", "receipt"),
    "shipping": ("parcel", "delivery", "tracking", "courier", "broken", "package"),
}
_DELAY_S = 0.02
#: where the system prompt asks for it
_SLOW_S = 0.4

app = FastAPI()


@app.post("/v1/chat/completions")
async def chat(request: Request) -> dict[str, Any]:
    body = await request.json()
    await asyncio.sleep(_DELAY_S)
    text = body["messages"][-1]["content"]
    if "sales-report assistant" in body["messages"][0]["content"]:
        return _completion(body["model"], reply(body["messages"], 0))
    if "slowly" in body["messages"][0]["content"]:
        await asyncio.sleep(_SLOW_S)
    label = next((label for label, words in _WORDS.items() if any(w in text for w in words)), "technical")
    return _completion(body["model"], label)


def _completion(model: str, text: str) -> dict[str, Any]:
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21},
    }


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    return {"object": "list", "data": []}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
