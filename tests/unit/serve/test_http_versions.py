"""The history of versions over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import NotFound

from .conftest import Bench
from .test_http_learning import KEY, Keys, record


class History:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, float | None]] = []

    def __call__(self, specialist: str | None, since: float | None) -> list[dict[str, Any]]:
        self.asked.append((specialist, since))
        if specialist == "nobody":
            raise NotFound("There is no task 'nobody'.")
        return [{"specialist": "sort@1", "from": "shadow", "to": "serving", "asker": "owner", "epoch": 3}]


async def test_the_history_is_asked_for_by_name_and_time(bench: Bench) -> None:
    history = History()
    async with bench.http(history=history) as http:
        answer = await http.get("/v1/specialists/history", params={"specialist": "sort@1", "since": "5.5"})
        every = await http.get("/v1/specialists/history")
        unknown = await http.get("/v1/specialists/history", params={"specialist": "nobody"})
    assert answer.json()["data"][0]["asker"] == "owner" and every.status_code == 200
    assert unknown.status_code == 404
    assert history.asked == [("sort@1", 5.5), (None, None), ("nobody", None)]


async def test_a_moment_that_is_none_is_refused_and_the_scope_is_admin(bench: Bench) -> None:
    history = History()
    async with bench.http(history=history) as http:
        answer = await http.get("/v1/specialists/history", params={"since": "yesterday"})
    assert answer.status_code == 400 and "`since` must be seconds" in answer.json()["error"]["message"]
    bench.keys = Keys(record("chat", "feedback", "plans"))
    async with bench.http(history=history) as http:
        refused = await http.get("/v1/specialists/history", headers={"Authorization": f"Bearer {KEY}"})
    assert refused.status_code == 403
    assert history.asked == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_history_is_only_read(bench: Bench, method: str) -> None:
    async with bench.http(history=History()) as http:
        assert (await http.request(method, "/v1/specialists/history")).status_code == 405
