from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.plan import validate_body
from shoal.examples.sales_report import standin
from shoal.examples.sales_report.agent import sales_report
from shoal.examples.sales_report.questions import LANGUAGES, TONES, questions
from shoal.examples.sales_report.scoring import direction_kept, language_kept, values_carried
from shoal.examples.sales_report.tools import sales_figures

PLAN = sales_report()

FIGURES = {
    "name": "EMEA",
    "growth": 32.0,
    "online": 9.0,
    "stores": 2.0,
    "partners": 0.5,
    "price_effect": 0.5,
    "returns_rate": 3.0,
    "stock_out_days": 2,
}


SAID = {"name": "Andes", "growth": 12, "driver": "online sales", "tone": "formal", "language": "English"}


def messages_for(skill: str, record: dict[str, object]) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": PLAN.skills[skill].system},
        {"role": "user", "content": json.dumps(record)},
    ]


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    runner = web.AppRunner(standin.StandIn(seed=1, latency_ms=20).application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("changes", "driver", "action"),
    [
        ({}, "online sales", "raise the channel budget"),
        ({"growth": 29.9}, "online sales", "keep the channel plan"),
        ({"price_effect": 9.5}, "pricing", "keep the new price"),
        ({"partners": 11.0, "returns_rate": 15.0}, "partner sales", "raise the channel budget"),
        ({"growth": -4.0, "stores": -5.0}, "store sales", "repair the channel"),
        ({"growth": -4.0, "price_effect": -5.0}, "pricing", "review the price list"),
        (
            {"growth": -4.0, "returns_rate": 9.0, "stock_out_days": 20},
            "product returns",
            "audit product quality",
        ),
        ({"growth": -4.0, "stock_out_days": 20}, "stock shortages", "raise safety stock"),
    ],
)
def test_driver_and_action_follow_from_the_figures(
    changes: dict[str, float], driver: str, action: str
) -> None:
    assert standin.analyse({**FIGURES, **changes}) == {"driver": driver, "action": action}


def test_the_name_and_the_order_of_fields_do_not_matter_to_the_analysis() -> None:
    other = {**dict(reversed(FIGURES.items())), "name": "Atlantis"}
    assert standin.analyse(other) == standin.analyse(FIGURES)


def test_every_question_gets_a_valid_plan_in_the_tone_and_language_that_it_asks_for() -> None:
    catalogue = Catalogue(tools={"sales_figures": sales_figures.info})
    seen = Counter()
    for question in questions(600, seed=3):
        body = standin.plan(question.text)
        assert validate_body(body, PLAN, catalogue) == [], question.text
        style = body["steps"][2]["input"]
        assert (style["tone"], style["language"]) == (question.tone, question.language), question.text
        seen[body["steps"][0]["input"]["period"]] += 1
        assert ("where" in body["steps"][0]["input"]) == bool(
            re.search(r"by \w+ (for|in) [A-PR-Z]", question.text)
        )
    assert len(seen) == 6 and min(seen.values()) > 50


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("growth", [12.5, -3, 0.1])
def test_sentences_carry_their_record_in_every_tone_and_language(
    tone: str, language: str, growth: float
) -> None:
    for name in ("Québec", "Yoga Mat"):
        record = {"name": name, "growth": growth, "driver": "store sales", "tone": tone, "language": language}
        for seed in range(12):
            sentence = standin.write(record, seed=seed)
            assert values_carried(record, sentence) == {"name": True, "growth": True, "driver": True}, (
                sentence
            )
            assert direction_kept(record, sentence), sentence
            assert language_kept(record, sentence), sentence


def test_wording_varies_with_record_and_seed_but_the_same_record_and_seed_say_the_same() -> None:
    by_seed = {standin.write(SAID, seed) for seed in range(100)}
    assert len(by_seed) == 3
    assert "Revenue for Andes increased by 12%, driven mainly by online sales." in by_seed
    assert standin.write(SAID, 3) == standin.write(dict(reversed(SAID.items())), 3)
    assert "-" not in standin.write({**SAID, "growth": -12}, 0)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "You write sentences."}, {"role": "user", "content": "no JSON"}],
        [{"role": "system", "content": "a sentence"}, {"role": "user", "content": '{"region": "EMEA"}'}],
        [{"role": "system", "content": "the recommended action"}, {"role": "user", "content": "[1, 2]"}],
        [{"role": "system", "content": "You are the planner"}, {"role": "user", "content": "How are you?"}],
        [{"role": "user", "content": None}],
    ],
)
def test_anything_else_gets_an_honest_answer(messages: list[dict[str, object]]) -> None:
    assert standin.reply(messages, seed=0) == standin.ONLY_THREE_JOBS


def test_it_imports_nothing_of_shoal() -> None:
    tree = ast.parse(Path(standin.__file__).read_text(encoding="utf-8"))
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m.partition(".")[0] for m in modules} - set(sys.stdlib_module_names) == {"aiohttp"}


async def test_a_plain_answer_says_that_it_is_a_stand_in_and_takes_its_latency(base_url: str) -> None:
    body = {"model": "anything", "messages": messages_for("analyse", FIGURES)}
    started = time.perf_counter()
    async with httpx.AsyncClient() as client:
        answer = (await client.post(f"{base_url}/chat/completions", json=body)).json()
    assert time.perf_counter() - started >= 0.02
    assert json.loads(answer["choices"][0]["message"]["content"])["driver"] == "online sales"
    assert answer["model"] == "stand-in-generalist" and "stand-in" in answer["system_fingerprint"]
    assert answer["usage"]["completion_tokens"] > 5 and answer["usage"]["prompt_tokens"] > 100
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][f"{side}_tokens"] for side in ("prompt", "completion")
    )


async def test_a_stream_has_the_same_text_and_usage_when_asked(base_url: str) -> None:
    body = {
        "messages": messages_for("write", {**SAID, "growth": -3.5}),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with httpx.AsyncClient() as client:
        plain = (await client.post(f"{base_url}/chat/completions", json={**body, "stream": False})).json()
        lines = (await client.post(f"{base_url}/chat/completions", json=body)).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == plain["usage"]


async def test_models_and_bad_requests_have_openais_shape(base_url: str) -> None:
    async with httpx.AsyncClient() as client:
        models = (await client.get(f"{base_url}/models")).json()
        bad = await client.post(f"{base_url}/chat/completions", json={"messages": []})
    assert [m["id"] for m in models["data"]] == ["stand-in-generalist"]
    assert models["data"][0]["stand_in"] is True
    assert models["data"][0]["stated_price_usd_per_million_tokens"] == {"in": 2.5, "out": 10.0}
    assert bad.status_code == 400 and bad.json()["error"]["type"] == "invalid_request_error"


def test_as_a_process_it_names_its_port_and_ends_with_its_standard_input() -> None:
    command = [sys.executable, "-m", "shoal.examples.sales_report.standin", "--port", "0", "--with-stdin"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        ready = json.loads(process.stdout.readline())
        assert ready["stand_in"] is True and re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", ready["base_url"])
        assert httpx.get(f"{ready['base_url']}/models").status_code == 200
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0 and "stated price 2.50/10.00" in said
    finally:
        process.kill()
