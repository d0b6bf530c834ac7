"""Runs tools on the nodes where they may run. Implements `ToolCaller`; decides nothing but the label selector.

A tier is a wish: `label_selector` asks for it and `fallback_strategy` lets another node take the tool where there is none of that
tier. That `local-only` data goes to edge and local nodes only is no wish, so it stands in the selector and in every fallback.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray

from shoal.agents.routing.router_actor import NAMESPACE
from shoal.errors import DeadlineExceeded, PrivacyViolation, SiteError, StepFailed
from shoal.nodes.identity import TIER_LABEL
from shoal.serve.plan_performer import OwnTool
from shoal.serve.ports import Place
from shoal.serve.tool_host import AT_ONCE, ToolHost

log = logging.getLogger("shoal.plans")

#: begins the names of the actors
PREFIX = "shoal-tools-"
#: calls over their time that an actor may still be at, before it is started again: their threads cannot be stopped
_MOST_ABANDONED = AT_ONCE // 2


def selectors(tier: str, *, keep_local: bool) -> tuple[dict[str, str], list[dict[str, str]]]:
    """(label selector, further ones in the order in which they are tried) for a tool.

    Without a tier and without a restriction both are empty: any node will do.
    """
    # `!cloud` would also take a node that has no tier at all
    anywhere = {TIER_LABEL: "in(edge,local)"} if keep_local else {}
    if not tier or (keep_local and tier == "cloud"):
        return anywhere, []
    return {TIER_LABEL: tier}, [anywhere]


def host_name(tier: str, *, keep_local: bool) -> str:
    """The actor for a kind of place: calls that ask for the same share it."""
    return f"{PREFIX}{tier or 'any'}{'-private' if keep_local else ''}"


class RayTools:
    """Use it in one event loop."""

    def __init__(self) -> None:
        self._hosts: dict[str, Any] = {}
        self._abandoned: Counter[str] = Counter()

    async def call(
        self, own: OwnTool, arguments: Mapping[str, Any], *, tier: str, keep_local: bool, deadline_s: float
    ) -> tuple[Any, Place]:
        """As `ToolCaller.call`."""
        if keep_local and not await asyncio.to_thread(_has_private_node):
            raise PrivacyViolation(
                "The data is `local-only`, and no node of the tiers edge or local is there to run the tool.",
                remedy="Add one: shoal nodes join.",
            )
        name = host_name(tier, keep_local=keep_local)
        if name not in self._hosts:
            self._hosts[name] = await asyncio.to_thread(_start, name, tier, keep_local)
        reference = self._hosts[name].call.remote(own.path, dict(own.options), dict(arguments))
        try:
            said = await asyncio.wait_for(reference, deadline_s)
        except TimeoutError:
            self._abandon(name)
            raise DeadlineExceeded(
                f"The tool {own.path} gave no answer within {deadline_s:g} s.",
                remedy="Give the step more `timeout_s`, or look whether a node has room: shoal nodes ls.",
            ) from None
        except ray.exceptions.ActorUnavailableError as error:
            raise SiteError("The process that runs tools is being restarted.", remedy="Try again.") from error
        except ray.exceptions.ActorDiedError as error:
            self._hosts.pop(name, None)
            raise SiteError("The process that runs tools died.", remedy="Try again.") from error
        except ray.exceptions.RayError as error:
            raise StepFailed(
                f"The tool {own.path} did not run: {_last_line(error)}", remedy="See the site's logs."
            ) from error
        self._abandoned.pop(name, None)  # it still has room
        if "error" in said:
            raise StepFailed(
                f"The tool {own.path} failed: {said['error']}", remedy="Check its arguments and options."
            )
        return said["output"], Place(node=said["node"], tier=said["tier"])

    def _abandon(self, name: str) -> None:
        """A call ran over its time. Where that happens again and again, its process is started anew."""
        self._abandoned[name] += 1
        if self._abandoned[name] >= _MOST_ABANDONED and name in self._hosts:
            log.warning("tools hang in %s: it is started again", name)
            ray.kill(self._hosts[name], no_restart=False)
            self._abandoned.pop(name)


def _start(name: str, tier: str, keep_local: bool) -> Any:
    """The actor of this name, made where there is none. Several tools share it, so it asks for no CPU of its own."""
    selector, further = selectors(tier, keep_local=keep_local)
    options: dict[str, Any] = {"label_selector": selector} if selector else {}
    if further:
        options["fallback_strategy"] = [{"label_selector": other} for other in further]
    return (
        ray.remote(ToolHost)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            # calls over their time still hold a place
            max_concurrency=2 * AT_ONCE,
            **options,
        )
        .remote()
    )


def _has_private_node() -> bool:
    return any(
        node["Alive"] and (node.get("Labels") or {}).get(TIER_LABEL) in ("edge", "local")
        for node in ray.nodes()
    )


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
