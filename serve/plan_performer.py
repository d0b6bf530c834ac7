"""Performs the steps of plans: model steps through the chat service, as any call, and tools on Ray.

Implements `StepPerformer`. Owns what a privacy label means for a tool; for calls the chat service keeps it. Decides no order:
that is the plan's state machine. Tools are reached through `ToolCaller`, so that no Ray is needed to test this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.plans.catalogue import Catalogue, ToolInfo
from shoal.agents.plans.tools import Tool
from shoal.agents.ports import Performed
from shoal.agents.traces.chat import Privacy, parse_chat_request
from shoal.errors import NotFound, PrivacyViolation
from shoal.serve.call import LOCAL_CALLER, CallContext, Caller
from shoal.serve.ports import Place
from shoal.serve.service import ChatService

_NO_TOOL = "shoal.yaml names the tools under `tools`."


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTool:
    """A tool of the site: what it is, and what the owner's configuration says of it.

    Attributes:
        path: `module:function`.
        options: handed to it; never shown to a model.
        tier: where it runs if a step does not say; empty for any.
    """

    path: str
    tool: Tool
    options: Mapping[str, Any]
    tier: str


class ToolCaller(Protocol):
    """Runs a tool somewhere. Implemented over Ray tasks by `serve/ray_tools.py`."""

    async def call(
        self, own: OwnTool, arguments: Mapping[str, Any], *, tier: str, keep_local: bool, deadline_s: float
    ) -> tuple[Any, Place]:
        """The tool's answer and where it ran.

        Args:
            tier: where it should run; another node takes it where there is none of this tier.
            keep_local: on a node of the tiers edge or local only, whatever else.

        Raises:
            PrivacyViolation: no node may run it.
            DeadlineExceeded: it took too long.
            StepFailed: it raised.
        """
        ...


class ServicePerformer:
    """Performs steps.

    Args:
        tools: the site's, by name.
        specialists: names of the tasks whose specialists can be named now, with their descriptions.
        admit: raises where a run's caller may have no more calls made.
    """

    def __init__(
        self,
        service: ChatService,
        tools: Mapping[str, OwnTool],
        caller: ToolCaller,
        specialists: Callable[[], Mapping[str, str]],
        *,
        admit: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._service = service
        self._tools = dict(tools)
        self._caller = caller
        self._specialists = specialists
        self._admit = admit

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        privacy: Privacy,
        tier: str,
        step: str,
        run_id: str,
        caller: str,
        deadline_s: float,
    ) -> Performed:
        """One call through the service: decided, answered and recorded as a client's would be."""
        if self._admit is not None:
            await self._admit(caller)
        tags = {"run": run_id, "step": step, **({"tier": tier} if tier else {})}
        context = CallContext(privacy=privacy, conversation=run_id, tags=tags)
        who = Caller(id=caller, scopes=LOCAL_CALLER.scopes)
        served = await self._service.chat(parse_chat_request(body), who, context, deadline_s=deadline_s)
        return Performed(
            output=served.answer.content or "",
            performer=served.served_by,
            node=served.node,
            tier=served.tier,
            trace_id=served.trace_id,
            cost_usd=served.cost_usd,
        )

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        privacy: Privacy,
        tier: str,
        deadline_s: float,
    ) -> Performed:
        """Run a tool. `local-only` data goes to tools only that keep it on their node."""
        own = self._tools.get(name)
        if own is None:
            raise NotFound(f"There is no tool {name!r} here.", remedy=_NO_TOOL, param="use")
        private = privacy == "local-only"
        if private and own.tool.info.reach != "node":
            raise PrivacyViolation(
                f"The data is `local-only`, and the tool {name} may send it on (reach {own.tool.info.reach}).",
                remedy="Only a tool that is declared with reach=node may see it.",
            )
        output, place = await self._caller.call(
            own, arguments, tier=tier or own.tier, keep_local=private, deadline_s=deadline_s
        )
        if private and not place.keeps_local_only:
            raise PrivacyViolation(
                f"The data is `local-only`, and the tool {name} ran on {place.node or 'a node without a name'}, whose tier is "
                f"{place.tier or 'not known'}.",
                remedy="Start every node with its tier: shoal nodes join.",
            )
        return Performed(output=output, performer=f"tool/{name}", node=place.node, tier=place.tier)

    def catalogue(self) -> Catalogue:
        """What a plan may use here, right now."""
        tools = {name: _named(own, name) for name, own in self._tools.items()}
        return Catalogue(tools=tools, specialists=dict(self._specialists()))


def _named(own: OwnTool, name: str) -> ToolInfo:
    info = own.tool.info
    return ToolInfo(
        name=name,
        description=info.description,
        input=info.input,
        output=info.output,
        tier=own.tier or info.tier,
        reach=info.reach,
    )
