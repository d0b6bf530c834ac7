"""The world of `kill_rollout.py`, each in a process of its own that is quick to start: who writes the registry, and the large model.

python bench/_rollouts.py writer HOME SEED
python bench/_rollouts.py generalist PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

from shoal.agents.feedback.governance import pause_version, promote_version, rollback_task
from shoal.agents.registry.lifecycle import Move
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import ShoalError
from shoal.home import Home

_WORDS = {
    "billing": ("invoice", "refund", "charged", "credit", "payment", "receipt"),
    "shipping": ("parcel", "delivery", "tracking", "courier", "broken", "package"),
}


def be_writer(home: Home, seed: int) -> None:
    """Trains versions and says what the owner may say, until it is killed, or whoever started it is gone."""
    chance, parent = random.Random(seed), os.getppid()
    registry = SqlRegistry(home.database)
    task = registry.tasks()[0]
    while os.getppid() == parent:
        versions = registry.versions(task.id)
        said = chance.random()
        with contextlib.suppress(ShoalError):  # what may not be is refused
            if said < 0.4 or all(v.state in (VersionState.RETIRED, VersionState.PAUSED) for v in versions):
                _train(registry, versions, chance)
            elif said < 0.55:
                promote_version(registry, chance.choice(versions[-5:]))
            elif said < 0.75:
                pause_version(registry, chance.choice(versions[-5:]))
            elif said < 0.9:
                rollback_task(registry, task)
        time.sleep(chance.uniform(0.1, 1.5))


def _train(registry: SqlRegistry, versions: list[Version], chance: random.Random) -> None:
    """A further version of the same weights: what is measured is the way that it goes, not what it says."""
    newest = versions[-1]
    registry.begin_training(newest.task_id, newest.number + 1)
    time.sleep(chance.uniform(0, 0.3))
    made = replace(
        newest, number=newest.number + 1, state=VersionState.SHADOW, created_at=time.time(), served_at=None
    )
    older = [
        Move(version_key=v.key, before=v.state, after=VersionState.RETIRED, reason="a newer one was learnt")
        for v in versions
        if v.state is VersionState.SHADOW
    ]
    registry.add_version(made, moves=older)


def be_generalist(port: int) -> None:
    """Sorts tickets right, but for some seconds of every minute."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        await asyncio.sleep(0.02)
        text = body["messages"][-1]["content"]
        label = next((label for label, words in _WORDS.items() if any(w in text for w in words)), "technical")
        if time.time() % 40 < 12:
            label = {"billing": "shipping", "shipping": "technical", "technical": "billing"}[label]
        message = {"role": "assistant", "content": label}
        return JSONResponse(
            {
                "id": "stand-in",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21},
            }
        )

    async def models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": []})

    app = Starlette(
        routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)]
    )

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    if sys.argv[1] == "writer":
        be_writer(Home(Path(sys.argv[2])), int(sys.argv[3]))
    else:
        be_generalist(int(sys.argv[2]))
