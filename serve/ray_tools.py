"""Runs tools as Ray tasks on the nodes where they may run. Implements `ToolCaller`; decides nothing but the selector.

A tier is a wish: `label_selector` asks for it and `fallback_strategy` lets another node take the tool where there is none of
that tier. That `local-only` data stays off cloud nodes is no wish, so it stands in the selector and in every fallback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray

from shoal.errors import DeadlineExceeded, PrivacyViolation, ShoalError, StepFailed
from shoal.nodes.identity import TIER_LABEL
from shoal.serve.plan_performer import OwnTool
from shoal.serve.ports import Place
from shoal.serve.specialist_host import this_place

#: CPUs that a tool asks for: bounds how many run at once on a node
TOOL_CPUS = 0.5


def selectors(tier: str, *, keep_local: bool) -> tuple[dict[str, str], list[dict[str, str]]]:
    """(label selector, further ones in the order in which they are tried) for a tool.

    Without a tier and without a restriction both are empty: any node will do.
    """
    anywhere = {TIER_LABEL: "!cloud"} if keep_local else {}
    if not tier or (keep_local and tier == "cloud"):
        return anywhere, []
    return {TIER_LABEL: tier}, [anywhere]


class RayTools:
    """Use it in one event loop."""

    async def call(
        self, own: OwnTool, arguments: Mapping[str, Any], *, tier: str, keep_local: bool, deadline_s: float
    ) -> tuple[Any, Place]:
        """As `ToolCaller.call`."""
        selector, further = selectors(tier, keep_local=keep_local)
        if keep_local and not await asyncio.to_thread(_has_private_node):
            raise PrivacyViolation(
                "The data is `local-only`, and no node of the tiers edge or local is there to run the tool.",
                remedy="Add one: shoal nodes join.",
            )
        options: dict[str, Any] = {"num_cpus": TOOL_CPUS, "max_retries": 2}
        if selector:
            options["label_selector"] = selector
        if further:
            options["fallback_strategy"] = [{"label_selector": other} for other in further]
        reference = ray.remote(_run).options(**options).remote(own.path, dict(own.options), dict(arguments))
        try:
            said = await asyncio.wait_for(asyncio.wrap_future(reference.future()), deadline_s)
        except TimeoutError:
            ray.cancel(reference, force=True)
            raise DeadlineExceeded(
                f"The tool {own.path} gave no answer within {deadline_s:g} s.",
                remedy="Give the step more `timeout_s`, or look whether a node has CPUs left: shoal nodes ls.",
            ) from None
        except asyncio.CancelledError:
            ray.cancel(reference, force=True)
            raise
        except ray.exceptions.RayError as error:
            raise StepFailed(
                f"The tool {own.path} did not run: {_last_line(error)}", remedy="See the site's logs."
            ) from error
        place = Place(node=said["node"], tier=said["tier"])
        if "error" in said:
            raise StepFailed(
                f"The tool {own.path} failed: {said['error']}", remedy="Check its arguments and options."
            )
        return said["output"], place


def _run(path: str, options: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """In the worker on the chosen node. What the tool raises comes back as text: the actor needs none of its classes."""
    from shoal.agents.plans.tools import load_tool

    place = this_place()
    where = {"node": place.node, "tier": place.tier}
    try:
        return {**where, "output": load_tool(path).function(arguments, options)}
    except ShoalError as error:
        return {**where, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever an owner's function raises, it is the step's failure
        return {**where, "error": f"{type(error).__name__}: {error}"}


def _has_private_node() -> bool:
    return any(
        node["Alive"] and (node.get("Labels") or {}).get(TIER_LABEL) in ("edge", "local")
        for node in ray.nodes()
    )


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
