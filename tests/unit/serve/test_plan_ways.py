"""Plans as clients see them: the same runs and events over HTTP and gRPC, agents as models, and errors of one table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.agents.registry.database import Database
from shoal.agents.registry.keys import SqlKeys
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import InvalidRequest, NotFound, PermissionDenied, PlanFailed, PrivacyViolation, StepFailed
from shoal.serve.agent_calls import text_of_output
from shoal.serve.call import LOCAL_CALLER, CallContext, Caller
from shoal.serve.remote_plans import RemotePlans
from shoal.serve.status import error_object


async def test_a_run_has_the_same_events_and_result_over_both_ways(way: Any, bench: Any) -> None:
    client = await way.client(bench)
    events = [event async for event in client.plans.run("report", {"question": "a"}, privacy="internal")]
    assert [event["type"] for event in events] == ["run_started", "step_done", "run_done"]
    assert events[1] == {
        "seq": 2,
        "run_id": "trace-1",
        "at": 1.0,
        "type": "step_done",
        "step": "only",
        "use": "auto",
        "status": "done",
        "performer": "specialist/s@1",
        "node": "edge-1",
        "tier": "edge",
        "label": "internal",
        "parts": 1,
        "output": ["a", "b"],
    }
    run = await client.plans.get("trace-1")
    assert run["output"] == ["a", "b"] == events[-1]["output"]
    assert [found["id"] for found in await client.plans.list()] == ["trace-1"]


async def test_a_run_can_be_followed_from_where_one_left_off_ended_and_gone_on_with(
    way: Any, bench: Any
) -> None:
    client = await way.client(bench)
    async for _ in client.plans.run("report", {"question": "a"}):
        break
    assert [event["seq"] async for event in client.plans.events("trace-1", after=2)] == [3]
    assert (await client.plans.cancel("trace-1"))["status"] == "cancelled"
    assert (await client.plans.resume("trace-1"))["status"] == "running"


async def test_what_does_not_exist_is_not_found(way: Any, bench: Any) -> None:
    client = await way.client(bench)
    with pytest.raises(NotFound):
        [event async for event in client.plans.run("none", {})]
    for call in (client.plans.get, client.plans.cancel, client.plans.resume):
        with pytest.raises(NotFound):
            await call("none")
    with pytest.raises(NotFound):
        [event async for event in client.plans.events("none")]


async def test_a_run_that_fails_ends_with_its_error_and_raises_nothing(way: Any, bench: Any) -> None:
    bench.plans.error = StepFailed("it broke")
    client = await way.client(bench)
    events = [event async for event in client.plans.run("report", {"question": "a"})]
    assert events[-1]["type"] == "run_failed"
    assert events[-1]["error"]["code"] == "step_failed"


async def test_an_agent_is_a_model(way: Any, bench: Any) -> None:
    client = await way.client(bench)
    assert "agent/report" in await client.models()
    answer = await client.chat([{"role": "user", "content": "a"}], model="agent/report", privacy="local-only")
    assert (answer.text, answer.served_by) == ("a\nb", "agent/report")
    assert bench.plans.asked[0].privacy == "local-only"
    pieces = [p async for p in client.chat_stream([{"role": "user", "content": "a"}], model="agent/report")]
    assert "".join(piece.text for piece in pieces) == "a\nb"
    assert [trace.served_by for trace in bench.record.traces] == ["agent/report", "agent/report"]


async def test_the_response_of_an_agent_names_its_run(bench: Any) -> None:
    async with bench.http() as http:
        body = {"model": "agent/report", "messages": [{"role": "user", "content": "a"}]}
        answer = await http.post("/v1/chat/completions", json=body)
        run = await http.get(f"/v1/runs/{answer.headers['X-Shoal-Run-Id']}")
    assert answer.json()["choices"][0]["message"]["content"] == "a\nb"
    assert run.json()["status"] == "done"


async def test_an_agent_whose_run_fails_is_that_error(way: Any, bench: Any) -> None:
    client = await way.client(bench)
    for error in (StepFailed("it broke"), PrivacyViolation("nobody may see it"), PlanFailed("no")):
        bench.plans.error = error
        with pytest.raises(type(error), match=error.message):
            await client.chat([{"role": "user", "content": "a"}], model="agent/report")
    with pytest.raises(NotFound):
        await client.chat([{"role": "user", "content": "a"}], model="agent/none")
    with pytest.raises(InvalidRequest, match="no user message"):
        await client.chat([{"role": "system", "content": "a"}], model="agent/report")


async def test_a_run_is_started_and_returned_where_no_stream_is_asked_for(bench: Any) -> None:
    async with bench.http() as http:
        answer = await http.post("/v1/plans/report/runs", json={"input": {"question": "a"}})
        assert (answer.status_code, answer.headers["Location"]) == (201, "/v1/runs/trace-1")
        assert answer.json()["id"] == "trace-1"
        assert (await http.get("/v1/plans")).json()["data"] == [{"name": "report"}]
        wrong = await http.post("/v1/plans/report/runs", json={"inputs": {}})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "inputs")
        assert (await http.get("/v1/runs/trace-1/events?after=x")).status_code == 400


async def test_a_plan_that_is_handed_in_takes_the_scope_admin(bench: Any) -> None:
    caller = Caller(id="k", scopes=frozenset({"plans"}))
    with pytest.raises(PermissionDenied, match="admin"):
        await bench.service.run_plan("x", {}, caller, plan={"name": "x", "steps": []})
    assert await bench.service.run_plan("x", {}, LOCAL_CALLER, plan={"name": "x", "steps": []})


async def test_local_only_data_is_refused_at_a_gateway_on_a_cloud_node(bench: Any) -> None:
    bench.service.tier = "cloud"
    with pytest.raises(PrivacyViolation, match="cloud node"):
        await bench.service.run_plan("report", {"question": "a"}, LOCAL_CALLER, privacy="local-only")
    asked = ChatRequest(body={"model": "auto", "messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(PrivacyViolation, match="cloud node"):
        await bench.service.chat(asked, LOCAL_CALLER, CallContext(privacy="local-only"))


def test_results_become_texts() -> None:
    assert text_of_output("a") == "a"
    assert text_of_output(["a", "b"]) == "a\nb"
    assert json.loads(text_of_output({"a": [1]})) == {"a": [1]}
    assert text_of_output([]) == "[]"


async def test_an_actor_that_is_away_is_waited_for_and_a_run_is_asked_for_once_more() -> None:
    asked: list[str] = []

    async def ask(what: str, arguments: Any) -> dict[str, Any]:
        asked.append(what)
        if len(asked) < 3:
            raise ConnectionError("away")
        return {"ok": {"id": "r", "status": "done"}}

    assert (await RemotePlans(ask).get("r"))["status"] == "done"
    assert asked == ["get", "get", "get"]


async def test_an_error_of_the_actors_is_raised_as_it_was() -> None:
    async def ask(what: str, arguments: Any) -> dict[str, Any]:
        error = NotFound("no such run", param="run_id")
        return {"error": {**error_object(error), "code": error.code}}

    with pytest.raises(NotFound, match="no such run"):
        await RemotePlans(ask).get("r")


async def test_names_are_those_last_heard_while_the_actor_is_away() -> None:
    away = False

    async def ask(what: str, arguments: Any) -> dict[str, Any]:
        if away:
            raise ConnectionError("away")
        return {"ok": ["a"]}

    plans = RemotePlans(ask)
    assert await plans.names() == ["a"]
    away = True
    assert await plans.names() == ["a"]


async def test_an_agent_takes_the_scope_of_plans(bench: Any) -> None:
    chat = ChatRequest(body={"model": "agent/report", "messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(PermissionDenied, match="plans"):
        await bench.service.chat(chat, Caller(id="k", scopes=frozenset({"chat"})))
    served = await bench.service.chat(chat, Caller(id="k", scopes=frozenset({"chat", "plans"})))
    assert served.served_by == "agent/report"


async def test_a_run_of_another_key_does_not_exist(tmp_path: Any, bench: Any) -> None:
    keys = SqlKeys(Database(tmp_path / "keys.db"))
    texts = [
        keys.create(name, scopes)[1]
        for name, scopes in (("a", ("plans",)), ("b", ("plans",)), ("c", ("admin",)))
    ]
    bench.keys = keys
    head = [{"Authorization": f"Bearer {text}"} for text in texts]
    async with bench.http() as http:
        made = await http.post("/v1/plans/report/runs", json={"input": {"question": "a"}}, headers=head[0])
        run = f"/v1/runs/{made.json()['id']}"
        for method, path in (
            ("GET", run),
            ("DELETE", run),
            ("POST", f"{run}/resume"),
            ("GET", f"{run}/events"),
        ):
            said = [(await http.request(method, path, headers=h)).status_code for h in head]
            assert said == [200, 404, 200], (method, path)
        seen = [len((await http.get("/v1/runs", headers=h)).json()["data"]) for h in head]
        assert seen == [1, 0, 1]
        assert (await http.get(f"{run}/events?after={'9' * 5000}", headers=head[0])).status_code == 400
