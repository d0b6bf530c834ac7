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

from shoal.examples.sales_report import standin
from shoal.examples.sales_report.prompts import ANALYSE, WRITE, messages_for
from shoal.examples.sales_report.records import figure_records, sentence_records
from shoal.examples.sales_report.scoring import direction_kept, values_carried

FIGURES = {
    "region": "EMEA",
    "product": "Tent Duo",
    "growth": 12.0,
    "online": 9.0,
    "stores": 2.0,
    "partners": 0.5,
    "price_effect": 0.5,
    "returns_rate": 3.0,
    "stock_out_days": 2,
}


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
        ({"growth": 9.9}, "online sales", "keep the channel plan"),
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


def test_region_product_and_order_of_fields_do_not_matter_to_the_analysis() -> None:
    other = {**dict(reversed(FIGURES.items())), "region": "Atlantis", "product": "Anvil"}
    assert standin.analyse(other) == standin.analyse(FIGURES)


def test_every_driver_and_action_occurs_in_a_log_and_none_dominates() -> None:
    answers = Counter(tuple(standin.analyse(r).values()) for r in figure_records(750, seed=0))
    assert len(answers) == 13
    assert min(answers.values()) >= 10 and max(answers.values()) < 0.35 * 750


@pytest.mark.parametrize("novel", [False, True])
def test_sentences_carry_their_record_also_with_names_never_seen(novel: bool) -> None:
    for record in sentence_records(300, seed=2, novel=novel):
        sentence = standin.write(record, seed=5)
        assert values_carried(record, sentence) == {"region": True, "growth": True, "driver": True}, sentence
        assert direction_kept(record, sentence), sentence


def test_wording_varies_with_record_and_seed_but_the_same_record_and_seed_say_the_same() -> None:
    record = {"region": "EMEA", "growth": 12, "driver": "online sales"}
    by_seed = {standin.write(record, seed) for seed in range(100)}
    assert len(by_seed) == len(standin.UP)
    assert "In the EMEA region, revenue increased by 12%, largely driven by online sales." in by_seed
    assert standin.write(record, 3) == standin.write(dict(reversed(record.items())), 3)
    assert "fell" in " ".join(standin.write({**record, "growth": -12}, seed) for seed in range(50))
    assert "-" not in standin.write({**record, "growth": -12}, 0)
    assert "flat at 0%" in standin.write({**record, "growth": 0}, 0)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "You write sentences."}, {"role": "user", "content": "no JSON"}],
        [{"role": "system", "content": "a sentence"}, {"role": "user", "content": '{"region": "EMEA"}'}],
        [{"role": "system", "content": "the recommended action"}, {"role": "user", "content": "[1, 2]"}],
        [{"role": "user", "content": None}],
    ],
)
def test_anything_else_gets_an_honest_answer(messages: list[dict[str, object]]) -> None:
    assert standin.reply(messages, seed=0) == standin.ONLY_TWO_JOBS


def test_it_imports_nothing_of_shoal() -> None:
    tree = ast.parse(Path(standin.__file__).read_text(encoding="utf-8"))
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m.partition(".")[0] for m in modules} - set(sys.stdlib_module_names) == {"aiohttp"}


async def test_a_plain_answer_says_that_it_is_a_stand_in_and_takes_its_latency(base_url: str) -> None:
    body = {"model": "anything", "messages": messages_for(ANALYSE, FIGURES)}
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
        "messages": messages_for(WRITE, {"region": "Andes", "growth": -3.5, "driver": "gift cards"}),
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
