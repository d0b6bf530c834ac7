"""Runs tools in a process that stays: a Ray actor for each kind of place that steps ask for. Loads each tool once.

A task of its own for each call would start a Python process now and then, which takes seconds; the actor answers within milliseconds.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from shoal.agents.plans.tools import Tool, load_tool
from shoal.errors import ShoalError
from shoal.serve.ports import Place

#: calls that one process runs at once
AT_ONCE: Final = 16


class ToolHost:
    """Calls tools in threads, several at once.

    Args:
        place: where it runs; asked of Ray where None.
    """

    def __init__(self, place: Place | None = None) -> None:
        from shoal.serve.specialist_host import this_place

        self._place = this_place() if place is None else place
        self._tools: dict[str, Tool] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tool")

    async def call(self, path: str, options: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """`output`, or `error`: what a tool raises comes back as text, because the caller needs none of its classes."""
        where = {"node": self._place.node, "tier": self._place.tier, "pid": os.getpid()}
        try:
            if path not in self._tools:
                self._tools[path] = await asyncio.to_thread(load_tool, path)
            function = self._tools[path].function
            loop = asyncio.get_running_loop()
            return {
                **where,
                "output": await loop.run_in_executor(self._threads, function, arguments, options),
            }
        except ShoalError as error:
            return {**where, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever an owner's function raises, it is the step's failure
            return {**where, "error": f"{type(error).__name__}: {error}"}
