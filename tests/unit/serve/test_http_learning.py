from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from shoal.errors import NotFound

from .conftest import Bench
from .test_auth import KEY, Keys, record


@dataclass
class Control:
    """A feedback actor that remembers what it was asked for."""

    asked: list[Sequence[str]] = field(default_factory=list)
    running: bool = True

    async def learn(self, tasks: Sequence[str]) -> Mapping[str, Any]:
        if "gone" in tasks:
            raise NotFound("There is no task 'gone'.", remedy="shoal tasks ls")
        self.asked.append(tasks)
        return await self.standing()

    async def standing(self) -> Mapping[str, Any]:
        return {"running": None, "last": None}

    async def stop(self) -> bool:
        return self.running


async def test_learning_is_asked_for_looked_at_and_stopped(bench: Bench) -> None:
    control = Control()
    async with bench.http(learning=control) as http:
        begun = await http.post("/v1/learning", json={"tasks": ["sort"]})
        every = await http.post("/v1/learning", json={})
        looked = await http.get("/v1/learning")
        stopped = await http.delete("/v1/learning")
    assert (begun.status_code, every.status_code) == (202, 202)
    assert control.asked == [["sort"], []]
    assert looked.json() == begun.json() == {"running": None, "last": None}
    assert stopped.json() == {"stopped": True}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"tasks": "sort"}, 400, "tasks"),
        ({"tasks": [1]}, 400, "tasks.0"),
        ({"task": ["sort"]}, 400, "task"),
        ({"tasks": ["gone"]}, 404, "gone"),
    ],
)
async def test_what_cannot_be_learnt_is_refused_with_the_reason(
    bench: Bench, body: dict[str, Any], status: int, said: str
) -> None:
    control = Control()
    async with bench.http(learning=control) as http:
        answer = await http.post("/v1/learning", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert control.asked == []


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_learning_takes_the_scope_admin(bench: Bench, method: str) -> None:
    bench.keys = Keys(record("chat", "feedback", "plans"))
    control = Control()
    async with bench.http(learning=control) as http:
        answer = await http.request(
            method,
            "/v1/learning",
            headers={"Authorization": f"Bearer {KEY}"},
            json={} if method == "POST" else None,
        )
    assert answer.status_code == 403
    assert control.asked == []
