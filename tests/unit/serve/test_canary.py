"""Not a byte of `local-only` data leaves: random plans, with everything failing now and then, against servers that stand for the outside."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from shoal.agents.plans.plan import Plan, parse_plan
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.plans.tools import Tool, tool
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.database import Database
from shoal.agents.registry.records import OutputKind, TaskId, VersionState
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.traces.chat import ChatRequest, Privacy
from shoal.errors import DeadlineExceeded, SpecialistUnavailable, StepFailed
from shoal.nodes.spool import SystemClock
from shoal.serve.fakes import FunctionSpecialists, ListObserver, ListRecord, MarkRouter
from shoal.serve.generalist import OpenAIGeneralist
from shoal.serve.plan_performer import OwnTool, ServicePerformer
from shoal.serve.ports import Place
from shoal.serve.ray_tools import selectors
from shoal.serve.service import ChatService
from shoal.serve.settings import ServiceSettings

CANARY = "canary-7f3a91"
PLANS = 1000
MARKS = ("sort", "judge")


class Outside:
    """A server on loopback that stands for the outside: a language model, and whatever a tool may call. Keeps what it is sent."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._rng = random.Random(5)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.heard += [body, request.path_qs.encode(), repr(request.raw_headers).encode()]
        if self._rng.random() < 0.2:
            return web.Response(status=503, text=body.decode())  # it says again what it was sent
        message = {"role": "assistant", "content": json.dumps({"steps": [], "result": 1})}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    @property
    def leaked_bytes(self) -> int:
        return sum(data.count(CANARY.encode()) * len(CANARY) for data in self.heard)


class FlakySpecialists(FunctionSpecialists):
    """Specialists on nodes of all tiers that are unsure, slow or away now and then, and say what they were told."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.saw: list[tuple[str, str]] = []

    def place_of(self, version_key: str) -> Place:
        tier = {"sort@1": "edge", "sort@2": "cloud", "judge@1": "cloud", "judge@2": ""}[version_key]
        return Place(node=f"{tier}-1" if tier else "", tier=tier)

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        if any(CANARY in str(message.get("content")) for message in request.messages):
            self.saw.append((version_key, self.place_of(version_key).tier))
        drawn = self._rng.random()
        if drawn < 0.15:
            raise SpecialistUnavailable(f"away with {request.last_user_text}")
        if drawn < 0.25:
            raise DeadlineExceeded("slow")
        confidence = 0.1 if drawn < 0.45 else 0.99
        return SpecialistAnswer(content=f"said {request.last_user_text}", confidence=confidence)


class FlakyTools:
    """Runs tools here, as if on a node that Ray would take by the label selectors."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.ran_private: list[str] = []

    async def call(
        self, own: OwnTool, arguments: Mapping[str, Any], *, tier: str, keep_local: bool, deadline_s: float
    ) -> tuple[Any, Place]:
        if self._rng.random() < 0.2:
            raise StepFailed(f"broke over {json.dumps(dict(arguments))}")
        place = _scheduled(tier, keep_local, self._rng)
        self.ran_private += [place.tier] if keep_local else []
        output = own.tool(dict(arguments), dict(own.options))
        return (await output if asyncio.iscoroutine(output) else output), place


def _scheduled(tier: str, keep_local: bool, rng: random.Random) -> Place:
    """A node that Ray's selectors allow, out of one of each tier and one without a tier."""
    first, further = selectors(tier, keep_local=keep_local)
    for selector in (first, *further):
        wish = selector.get("shoal-tier", "")
        wanted = (
            wish.removeprefix("in(").removesuffix(")").split(",") if wish else ["cloud", "edge", "local", ""]
        )
        fitting = [found for found in ("cloud", "edge", "local", "") if found in wanted]
        if fitting:
            found = rng.choice(fitting)
            return Place(node=f"{found}-1", tier=found)
    raise AssertionError(f"no node for {first}")


def _tools(url: str, secret: str) -> dict[str, OwnTool]:
    async def post(arguments: dict[str, Any], options: dict[str, Any]) -> Any:
        async with ClientSession() as session, session.post(options["url"], json=arguments) as answer:
            return {"status": answer.status, "said": arguments}

    def keep(arguments: dict[str, Any], options: dict[str, Any]) -> Any:
        return {"kept": arguments}

    def open_vault(arguments: dict[str, Any], options: dict[str, Any]) -> Any:
        return {"secret": options["secret"]}

    made: dict[str, Tool] = {
        "search": tool(description="asks the outside")(post),
        "lookup": tool(description="asks another node", reach="site")(post),
        "keep": tool(description="stays here", reach="node")(keep),
        "vault": tool(description="gives a secret", reach="node")(open_vault),
    }
    return {
        name: OwnTool(path=f"m:{name}", tool=found, options={"url": f"{url}/tool", "secret": secret}, tier="")
        for name, found in made.items()
    }


def _route(name: str) -> Route:
    serving = Performer(key=f"{name}@1", number=1, state=VersionState.SERVING, threshold=0.5, share=1.0)
    shadow = Performer(key=f"{name}@2", number=2, state=VersionState.SHADOW, threshold=0.5, share=0.0)
    return Route(
        task_id=TaskId(name),
        name=name,
        output_kind=OutputKind.LABEL,
        match={"mark": f"[{name}]"},
        performers=(serving, shadow),
    )


def random_plan(rng: random.Random, *, first_is_private: bool) -> Plan:
    """A random data-flow graph over the run's input; its first step may carry the label `local-only` of its own."""
    steps: list[dict[str, Any]] = []
    for number in range(rng.randint(2, 6)):
        uses = ["auto", "generalist", "specialist/sort", "specialist/judge", "skill/ask", "planner"]
        uses += ["tool/search", "tool/lookup", "tool/keep"]
        use = "auto" if number == 0 else rng.choice(uses)
        known = [step["id"] for step in steps]
        sources = [f"${name}" for name in rng.sample(known, k=min(len(known), rng.choice((0, 1, 1, 2))))]
        sources = sources or ["$input.text"]
        step: dict[str, Any] = {
            "id": f"s{number}",
            "use": use,
            "input": {f"x{n}": s for n, s in enumerate(sources)},
        }
        if use in ("auto", "generalist"):
            step["system"] = f"[{rng.choice(MARKS)}] Do it."
        if number == 0:
            step |= {"use": "tool/keep"}
            if first_is_private:
                step |= {"use": "tool/vault", "privacy": "local-only"}
        if rng.random() < 0.3 and use != "planner":
            step |= {"each": "$input.list", "input": {**step["input"], "item": "$item"}}
        if rng.random() < 0.3:
            step["tier"] = rng.choice(("cloud", "edge", "local"))
        step["retries"] = rng.randint(0, 2)
        steps.append(step)
    skill = {"system": "[sort] Ask.", "use": rng.choice(("auto", "specialist/sort", "generalist"))}
    last = f"${steps[-1]['id']}"
    return parse_plan({"name": "p", "skills": {"ask": skill}, "steps": steps, "result": last}, source="test")


@pytest.fixture
async def outside() -> AsyncIterator[tuple[Outside, str]]:
    server = Outside()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def _run_all(
    url: str, folder: Path, label: Privacy, count: int, *, secret: bool = False
) -> tuple[FlakySpecialists, FlakyTools, list[dict[str, Any]]]:
    """Runs of `count` random plans. The canary is in their input; with `secret` only in what their first step, labelled so, gives."""
    rng = random.Random(f"{label}{secret}")
    specialists, tools = FlakySpecialists(rng), FlakyTools(rng)
    generalist = OpenAIGeneralist(f"{url}/v1", "big", attempts=2, first_wait_s=0.001)
    ids = itertools.count()
    service = ChatService(
        router=lambda: MarkRouter(Snapshot(epoch=1, routes=tuple(map(_route, MARKS)))),
        generalist=generalist,
        specialists=specialists,
        record=ListRecord(),
        observe=ListObserver(),
        clock=SystemClock(),
        ids=lambda: f"t{next(ids)}",
        node="head",
        tier="local",
        settings=ServiceSettings(audit_share=1.0),
        chance=rng.random,
    )
    performer = ServicePerformer(
        service, _tools(url, CANARY if secret else ""), tools, lambda: dict.fromkeys(MARKS, "a task")
    )
    runner = PlanRunner(
        store=SqlRuns(Database(folder / "runs.db")),
        performer=performer,
        clock=SystemClock(),
        ids=lambda: f"r{next(ids)}",
    )
    said = "nothing" if secret else CANARY
    given = {"text": f"my {said}", "list": [said, f"{said} too"]}
    views = []
    for start in range(0, count, 50):
        plans = [random_plan(rng, first_is_private=secret) for _ in range(min(50, count - start))]
        started = [await runner.start(plan, given, privacy=label) for plan in plans]
        views += [await runner.result(run_id) for run_id in started]
    await service.background.drain()
    await service.close()
    await generalist.close()
    return specialists, tools, views


@pytest.mark.timeout(240)
async def test_a_thousand_random_plans_let_no_byte_of_local_only_data_leave(
    outside: tuple[Outside, str], tmp_path: Path
) -> None:
    server, url = outside
    specialists, tools, views = await _run_all(url, tmp_path, "local-only", PLANS)
    assert server.leaked_bytes == 0
    assert {tier for _, tier in specialists.saw} == {"edge"}, "it reached a node that it may not reach"
    assert set(tools.ran_private) == {"edge", "local"}
    statuses = [view["status"] for view in views]
    # the plans did run: some came to their end on what may see the data, others were stopped with the reason
    assert statuses.count("done") > 50
    failed = [view["error"]["code"] for view in views if view["status"] == "failed"]
    assert failed.count("privacy_violation") > 200
    assert all(view["label"] == "local-only" for view in views)


async def test_the_same_plans_do_reach_the_outside_where_the_label_lets_them(
    outside: tuple[Outside, str], tmp_path: Path
) -> None:
    """Without this the test above could pass because nothing was ever sent."""
    server, url = outside
    specialists, _, _ = await _run_all(url, tmp_path, "internal", 50)
    assert server.leaked_bytes > 10 * len(CANARY)
    assert "cloud" in {tier for _, tier in specialists.saw}


async def test_a_label_on_one_step_holds_for_all_that_is_made_of_it(
    outside: tuple[Outside, str], tmp_path: Path
) -> None:
    server, url = outside
    specialists, _, views = await _run_all(url, tmp_path, "internal", 200, secret=True)
    assert server.leaked_bytes == 0
    assert {tier for _, tier in specialists.saw} == {"edge"}
    assert any(b"nothing" in data for data in server.heard), "what is not made of it may leave"
    labels = {step["label"] for view in views for step in view["steps"] if step["id"] == "s0"}
    assert labels == {"local-only"}
