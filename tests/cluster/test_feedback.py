"""Feedback teaches a running site: a version that follows it stands in shadow, nothing is restarted, and clients do not notice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tickets
from running_site import Site

from shoal import Client
from shoal.agents.feedback.learning_runs import SqlLearningRuns, process_of
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.store import ParquetTraceStore
from shoal.serve.engines import load
from shoal.serve.site_status import site_status

pytestmark = pytest.mark.cluster

#: the site's owner has refunds sorted elsewhere from now on
REFUNDS = [
    "Hello, I have a question about my refund.",
    "There is a problem: refund since yesterday.",
    "Please help me with the refund, it is urgent.",
    "My colleague reported: refund. What now?",
]

#: odd, so that each of the four is contradicted
_ANSWERS_EACH = 29
#: gateways tell within so long how many answers were given
_COUNTED_S = 6.0


@pytest.fixture
def taught(site: Site) -> Iterator[Site]:
    """The site with the log that its specialist was trained on; what is learnt here does not stay."""
    before = {v.key for v in site.registry.versions()}
    ParquetTraceStore(site.home).add(tickets.traces())
    site.wait_until(site.served_by_specialist, within_s=20)
    yield site
    httpx.delete(f"{site.url}/v1/learning", timeout=20)
    site.wait_until(lambda: runs(site).running() is None, within_s=60)
    for version in site.registry.versions():
        if version.key not in before and version.state is not VersionState.REJECTED:
            site.registry.set_state(version.key, VersionState.RETIRED, reason="test")
    site.wait_until(site.served_by_specialist, within_s=20)


def runs(site: Site) -> SqlLearningRuns:
    return SqlLearningRuns(site.registry.database)


def standing(site: Site) -> dict[str, Any]:
    found = site_status(site.home, site.config)["feedback"]
    assert found is not None
    return found


def actors(site: Site) -> dict[str, int]:
    return {name: site.pid(name) for name in ("RouterActor", "FeedbackActor", "shoal-gateway:", "shoal-host")}


def newest(site: Site, besides: set[str]) -> Version | None:
    return next((v for v in reversed(site.registry.versions()) if v.key not in besides), None)


def test_feedback_that_contradicts_a_specialist_leads_to_a_retrained_version_in_shadow_without_a_restart(
    taught: Site,
) -> None:
    site = taught
    known = {v.key for v in site.registry.versions()}
    before = actors(site)
    with Client(site.url) as client:
        given = []
        # so few of its answers are contradicted that it keeps its contract, and goes on serving
        for number in range(_ANSWERS_EACH * site.config.learning.min_corrections):
            answer = client.chat(tickets.body(REFUNDS[number % 4])["messages"], temperature=0)
            assert answer.served_by.startswith("specialist/"), answer
            assert answer.text == "billing"
            given.append(answer.trace_id)
        time.sleep(_COUNTED_S)
        for trace_id in given[::_ANSWERS_EACH]:
            client.feedback(trace_id, correction={"role": "assistant", "content": "shipping"})
    site.wait_until(lambda: newest(site, known) is not None, within_s=90)
    version = newest(site, known)
    assert version is not None
    assert (version.task_id, version.state) == (site.task.id, VersionState.SHADOW), version.reason
    site.wait_until(
        lambda: version.key in (site_status(site.home, site.config)["router"] or {})["loaded"], within_s=20
    )
    engine = load(site.home.models / version.folder, version.sha256)
    said = engine.answer([ChatRequest(body=tickets.body(text)) for text in (*REFUNDS, _OTHER)])
    assert [answer.content for answer in said] == ["shipping"] * 4 + ["billing"]
    assert actors(site) == before
    assert site.served_by() == f"specialist/{site.task.name}@{site.version.number}"
    site.wait_until(lambda: standing(site)["running"] is None, within_s=10)
    last = standing(site)["last"]
    assert last["outcomes"] == {site.task.name: "pass"}
    assert "answers of" in last["reason"]
    assert standing(site)["contradicted"] == {}


_OTHER = "Hello, I have a question about my invoice."


def test_an_actor_that_is_killed_while_the_site_learns_adopts_what_it_finds(taught: Site) -> None:
    site = taught
    httpx.post(f"{site.url}/v1/learning", json={}, timeout=20).raise_for_status()
    site.wait_until(lambda: (run := runs(site).running()) and process_of(run), within_s=20)
    run = runs(site).running()
    assert run is not None
    learner = process_of(run)
    assert learner is not None
    learner.suspend()  # it must not be done before the actor is back
    try:
        old = site.pid("FeedbackActor")
        os.kill(old, signal.SIGKILL)
        site.wait_until(lambda: _pid(site, "FeedbackActor") not in (None, old), within_s=20)
        site.wait_until(lambda: standing(site)["pid"] != old, within_s=20)
        site.wait_until(lambda: (standing(site)["running"] or {}).get("id") == run.id, within_s=20)
        again = process_of(runs(site).get(run.id))
        assert again is not None and again.pid == learner.pid
    finally:
        learner.resume()
    site.wait_until(lambda: runs(site).get(run.id).state == "done", within_s=90)
    site.wait_until(lambda: (standing(site)["last"] or {}).get("id") == run.id, within_s=10)


def test_a_learning_process_that_is_killed_is_started_again_and_comes_to_its_end(taught: Site) -> None:
    site = taught
    httpx.post(f"{site.url}/v1/learning", json={"tasks": [site.task.name]}, timeout=20).raise_for_status()
    site.wait_until(lambda: (run := runs(site).running()) and process_of(run), within_s=20)
    run = runs(site).running()
    assert run is not None and run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    site.wait_until(lambda: runs(site).get(run.id).state == "done", within_s=90)
    assert runs(site).get(run.id).pid != run.pid


def test_who_asks_for_a_task_that_is_not_there_is_told(site: Site) -> None:
    answer = httpx.post(f"{site.url}/v1/learning", json={"tasks": ["nothing-such"]}, timeout=20)
    assert answer.status_code == 404
    assert "nothing-such" in answer.json()["error"]["message"]


def test_feedback_is_kept_while_the_actor_is_away(site: Site) -> None:
    answer = site.ask(_OTHER)
    trace_id = answer.headers["X-Shoal-Trace-Id"]
    os.kill(site.pid("FeedbackActor"), signal.SIGKILL)
    began = time.monotonic()
    told = httpx.post(f"{site.url}/v1/feedback", json={"trace_id": trace_id, "score": 1}, timeout=20)
    assert told.status_code == 200
    assert time.monotonic() - began < 2
    assert [said["score"] for said in site.registry.feedback(trace_id)] == [1]
    site.wait_until(lambda: _pid(site, "FeedbackActor") is not None, within_s=20)


def test_what_the_site_learns_keeps_to_one_core_at_the_lowest_priority(taught: Site) -> None:
    site = taught
    httpx.post(f"{site.url}/v1/learning", json={}, timeout=20).raise_for_status()
    site.wait_until(lambda: (run := runs(site).running()) and process_of(run), within_s=20)
    run = runs(site).running()
    assert run is not None and run.pid is not None
    process = psutil.Process(run.pid)
    assert process.nice() == 19
    assert len(process.cpu_affinity() or ()) == 1
    mark = json.loads(Path(site.home.site).read_text(encoding="utf-8"))["id"]
    assert process.environ()["SHOAL_SITE_ID"] == mark


def _pid(site: Site, name: str) -> int | None:
    try:
        return site.pid(name)
    except StopIteration:
        return None
