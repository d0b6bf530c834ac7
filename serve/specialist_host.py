"""What runs in a specialist replica: loaded versions, each answering in batches.

Small versions share one host and large ones have a replica of their own; both are this class. The list of versions comes as Serve's
`user_config`, so that loading one more or one less restarts nothing. Loading happens beside the calls, and a version that cannot be
loaded is reported and keeps no other from answering.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel
from shoal.nodes.identity import NODE_LABEL, TIER_LABEL
from shoal.nodes.telemetry import gpu_joules
from shoal.serve.batching import Batcher
from shoal.serve.metering import MeteredEngine
from shoal.serve.ports import Place
from shoal.serve.specialist_client import this_machine

log = logging.getLogger("shoal.serve")

#: batches that run at once: a slow specialist must not stop a quick one
_THREADS = 2
#: a version whose loading failed for another reason than its files is tried again after this long
_RETRY_S = 5.0

Loader = Callable[[Path, str], Engine]


def this_place() -> Place:
    """The Ray node that this process runs on, as its labels say; unknown outside Ray."""
    import ray

    if not ray.is_initialized():
        return Place()
    labels = ray.get_runtime_context().get_node_labels()
    return Place(node=str(labels.get(NODE_LABEL, "")), tier=str(labels.get(TIER_LABEL, "")))


def _load(folder: Path, sha256: str) -> Engine:
    from shoal.serve.engines import load

    return load(folder, sha256)


class SpecialistHost:
    """Holds versions by key. Every method is called in the replica's event loop."""

    def __init__(self, load: Loader = _load, place: Place | None = None) -> None:
        from shoal.serve.loopback import keep_to_loopback

        keep_to_loopback()
        self._load = load
        self._place = this_place() if place is None else place
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="specialist")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        #: what should be loaded: key -> (folder, sha256)
        self._wanted: dict[str, tuple[str, str]] = {}
        self._batchers: dict[str, Batcher[ChatRequest, SpecialistAnswer]] = {}
        #: key -> the digest with which its files were verified when they were loaded; for each batcher one
        self._loaded: dict[str, str] = {}
        #: key -> why it cannot be loaded; `True` where trying again is no use
        self._failed: dict[str, tuple[str, bool]] = {}
        self._task: asyncio.Task[None] | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Make exactly `config["versions"]` loaded: a list of `key`, `folder`, `sha256`. Returns at once; loading goes on."""
        self._wanted = {v["key"]: (v["folder"], v["sha256"]) for v in config.get("versions", ())}
        for key, sha256 in list(self._loaded.items()):
            if self._wanted.get(key, ("", ""))[1] != sha256:
                del self._batchers[key], self._loaded[key]
        self._failed = {}
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._load_missing())

    async def ask(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An answer (`content`, `tool_calls`, `confidence`, `reason`, `effort`), or `error` with why there is none. Never raises for a version.

        `version` and `sha256` say who answered: the key that was loaded, and the digest of its files.
        """
        batcher, sha256 = self._batchers.get(key), self._loaded.get(key, "")
        if batcher is None:
            why = self._failed.get(key, ("it is being loaded" if key in self._wanted else "not here", False))[
                0
            ]
            return {"error": f"{key} is not loaded: {why}"}
        try:
            said = await batcher.ask(ChatRequest(body=body))
        except Exception as error:
            log.exception("%s failed over a request", key)
            return {"error": f"{key} failed: {error!r}"}
        return {
            "content": said.content,
            "tool_calls": [dict(call) for call in said.tool_calls],
            "confidence": said.confidence,
            "reason": said.reason,
            "version": key,
            "sha256": sha256,
            "node": self._place.node,
            "tier": self._place.tier,
            "effort": None if said.effort is None else asdict(said.effort),
        }

    async def report(self) -> dict[str, Any]:
        """`loaded`: keys; `sha256`: what each was loaded from; `failed`: key -> why; `corrupt`: those of them for which trying again is no use."""
        return {
            "loaded": sorted(self._batchers),
            "sha256": dict(self._loaded),
            "failed": {key: why for key, (why, _) in self._failed.items()},
            "corrupt": sorted(key for key, (_, final) in self._failed.items() if final),
        }

    async def ping(self) -> dict[str, Any]:
        """Answers at once where the replica lives: `machine` and `pid`."""
        return {"machine": this_machine(), "pid": os.getpid()}

    def _missing(self) -> list[str]:
        return [
            key
            for key in self._wanted
            if key not in self._batchers and not self._failed.get(key, ("", False))[1]
        ]

    async def _load_missing(self) -> None:
        loop = asyncio.get_running_loop()
        while missing := self._missing():
            for key in missing:
                if key not in self._wanted:
                    continue
                folder, sha256 = self._wanted[key]
                try:
                    engine = await loop.run_in_executor(self._loading, self._load, Path(folder), sha256)
                except CorruptModel as error:
                    self._failed[key] = (str(error), True)
                    log.error("%s", error)
                except Exception as error:
                    self._failed[key] = (repr(error), False)
                    log.exception("%s cannot be loaded", key)
                else:
                    if self._wanted.get(key) == (folder, sha256):
                        self._failed.pop(key, None)
                        metered = MeteredEngine(engine, joules=gpu_joules)
                        answer: Callable[[Sequence[ChatRequest]], Sequence[SpecialistAnswer]] = metered.answer
                        self._batchers[key] = Batcher(answer, self._threads)
                        self._loaded[key] = sha256
            if self._missing():
                await asyncio.sleep(_RETRY_S)
