"""A small world of two functions: rides and orders. Fares, places and dates are drawn, so what is tested was never seen."""

from __future__ import annotations

import json
import random
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from shoal.agents.contract.loss import canonical_tool_calls
from shoal.agents.learning import tool_call
from shoal.agents.learning.evaluate import Loaded, evaluate, todays_snapshot
from shoal.agents.learning.folder import seal
from shoal.agents.learning.learn import learn
from shoal.agents.learning.tool_call import SECONDS_PER_CALL, closed_texts, train_tool_call
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router import Router
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import Config
from shoal.errors import CorruptModel, DataError
from shoal.home import Home
from shoal.serve.engines import load

TODAY = date(2024, 5, 15)
PLACES = [
    a + b for a in ("Al", "Bor", "Cam", "Dun", "Esk", "Fal", "Gor") for b in ("ville", "berg", "ton", "ness")
]
RIDE = {
    "type": "function",
    "function": {
        "name": "book_ride",
        "description": "Book a ride",
        "parameters": {
            "type": "object",
            "properties": {
                "origin": {"type": "string"},
                "goal": {"type": "string"},
                "day": {"type": "string"},
                "class": {"type": "string", "enum": ["first", "second"]},
                "seats": {"type": "integer", "minimum": 1, "maximum": 6},
            },
            "required": ["origin", "goal", "day", "seats"],
        },
    },
}
ORDER = {
    "type": "function",
    "function": {
        "name": "get_order",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
        },
    },
}
_SEATS = {"one seat": 1, "two seats": 2, "3 seats": 3}
_DAYS = {"tomorrow": 1, "today": 0, "next Monday": 5, "the day after tomorrow": 2}


def request(*turns: dict[str, Any], tools: list[Any] | None = None) -> ChatRequest:
    system = {"role": "system", "content": f"You book rides. Today is {TODAY}. Call a function, or say WAIT."}
    return ChatRequest(
        body={"messages": [system, *turns], "tools": [RIDE, ORDER] if tools is None else tools}
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _draw(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    kind = rng.choice(["ride", "ride", "asked", "wait", "order"])
    if kind == "wait":
        return [user(f"Hello, I would like a ride from {rng.choice(PLACES)}.")], None
    if kind == "order":
        ids = ["".join(rng.choices("ABCDEFGH123456789", k=6)) for _ in range(3)]
        done = rng.randrange(3)
        turns = [user("Check all my orders.")]
        turns.append(
            {"role": "tool", "tool_call_id": "u", "content": json.dumps({"name": "Ann", "orders": ids})}
        )
        for one in ids[:done]:
            turns.append(
                {"role": "assistant", "content": None, "tool_calls": [call("get_order", {"order_id": one})]}
            )
            turns.append({"role": "tool", "tool_call_id": "x", "content": json.dumps({"state": "sent"})})
        return turns, call("get_order", {"order_id": ids[done]})
    origin, goal = rng.sample(PLACES, 2)
    day, ahead = rng.choice(list(_DAYS.items()))
    seats, count = rng.choice(list(_SEATS.items()))
    travel = rng.choice(["", "first", "second"])
    extra = f" in {travel} class" if travel else ""
    arguments = {
        "origin": origin,
        "goal": goal,
        "day": (TODAY + timedelta(days=ahead)).isoformat(),
        **({"class": travel} if travel else {}),
        "seats": count,
    }
    if kind == "ride":
        text = rng.choice(
            [
                f"{seats} from {origin} to {goal} {day}{extra}",
                f"To {goal} from {origin}, {seats}, {day}{extra}",
            ]
        )
        return [user(text)], call("book_ride", arguments)
    turns = [
        user(f"A ride from {origin} {day}{extra}, {seats}"),
        {"role": "assistant", "content": "Where to?"},
    ]
    return [*turns, user(f"{goal}, please")], call("book_ride", arguments)


def examples(count: int, seed: int, wait: str = "WAIT") -> list[Example]:
    rng = random.Random(seed)
    out = []
    for i in range(count):
        turns, called = _draw(rng)
        content = canonical_tool_calls([called]) if called else wait.format(i=i)
        out.append(
            Example(
                id=f"{seed}-{i}",
                request=request(*turns),
                content=content,
                group=f"{seed}-{i}",
                tool_calls=(called,) if called else (),
            )
        )
    return out


def train(folder: Path, taught: list[Example]) -> Engine:
    context = TrainContext(seed=0, seconds=60, work=folder, monotonic=time.monotonic)
    train_tool_call(taught, [], folder, context)
    seal(folder, {"kind": "tool_call"})
    return load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls")
    train(path, examples(260, seed=1))
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder)


def said(engine: Engine, asked: ChatRequest) -> SpecialistAnswer:
    return engine.answer([asked])[0]


def arguments(answer: SpecialistAnswer) -> Any:
    [called] = answer.tool_calls
    return json.loads(called["function"]["arguments"])


def test_calls_and_waits_of_unseen_conversations_are_right(engine: Engine) -> None:
    held = examples(100, seed=2)
    answers = engine.answer([e.request for e in held])
    right = [
        canonical_tool_calls(a.tool_calls) == e.content if e.tool_calls else a.content == e.content
        for a, e in zip(answers, held, strict=True)
    ]
    assert sum(right) >= 95
    sure = [a.confidence for a, ok in zip(answers, right, strict=True) if ok]
    unsure = [a.confidence for a, ok in zip(answers, right, strict=True) if not ok]
    assert sum(sure) / len(sure) > 0.8
    assert not unsure or sum(unsure) / len(unsure) < sum(sure) / len(sure)


def test_values_that_the_log_never_had_are_pointed_to_and_normalised(engine: Engine) -> None:
    answer = said(engine, request(user("two seats from Quixby to Zanholm next Monday in first class")))
    assert answer.content is None
    assert arguments(answer) == {
        "origin": "Quixby",
        "goal": "Zanholm",
        "day": "2024-05-20",
        "class": "first",
        "seats": 2,
    }


def test_a_result_gives_the_next_value_that_was_not_used(engine: Engine) -> None:
    found = {
        "role": "tool",
        "tool_call_id": "u",
        "content": json.dumps({"name": "Bob", "orders": ["ZZ9", "YY8", "XX7"]}),
    }
    done = {"role": "assistant", "content": None, "tool_calls": [call("get_order", {"order_id": "ZZ9"})]}
    turns = [user("Check all my orders."), found]
    assert arguments(said(engine, request(*turns))) == {"order_id": "ZZ9"}
    later = [*turns, done, {"role": "tool", "tool_call_id": "x", "content": '{"state": "sent"}'}]
    assert arguments(said(engine, request(*later))) == {"order_id": "YY8"}


def test_what_is_lacking_is_waited_for_in_the_logs_words(engine: Engine) -> None:
    answer = said(engine, request(user("Hello, I would like a ride from Quixby.")))
    assert (answer.content, answer.tool_calls) == ("WAIT", ())
    assert answer.confidence > 0.5


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        (
            [RIDE, {"type": "function", "function": {"name": "fly", "parameters": {}}}],
            "`fly` was never offered",
        ),
        (
            [
                {
                    "type": "function",
                    "function": {
                        **RIDE["function"],  # type: ignore[dict-item]
                        "parameters": {"type": "object", "properties": {"from": {"type": "string"}}},
                    },
                }
            ],
            "never",
        ),
    ],
)
def test_functions_that_were_never_offered_are_nothing_to_be_sure_of(
    engine: Engine, tools: list[Any], reason: str
) -> None:
    answer = said(engine, request(user("two seats from Quixby to Zanholm tomorrow"), tools=tools))
    assert answer.confidence == 0.0
    assert reason in answer.reason


def test_words_that_the_log_never_had_lower_the_confidence(engine: Engine) -> None:
    usual = said(engine, request(user("two seats from Quixby to Zanholm tomorrow")))
    strange = said(
        engine,
        request(
            user("two seats from Quixby to Zanholm tomorrow unless gremlins nibble rotten cables underneath")
        ),
    )
    assert strange.confidence < 0.9 * usual.confidence


def test_arguments_that_the_schema_forbids_are_declined(engine: Engine) -> None:
    narrow = json.loads(json.dumps(RIDE))
    narrow["function"]["parameters"]["properties"]["origin"]["maxLength"] = 3
    answer = said(engine, request(user("two seats from Quixby to Zanholm tomorrow"), tools=[narrow, ORDER]))
    assert not answer.given
    assert "book_ride: origin: 'Quixby' is too long" in answer.reason


def test_free_text_where_nothing_is_called_is_left_to_the_generalist(tmp_path: Path) -> None:
    engine = train(tmp_path, examples(120, seed=3, wait="Tell me more, number {i}."))
    answer = said(engine, request(user("Hello, I would like a ride from Quixby.")))
    assert not answer.given
    assert "texts are the generalist's" in answer.reason
    assert said(engine, request(user("two seats from Quixby to Zanholm tomorrow"))).tool_calls


def test_texts_are_a_closed_set_only_where_few_cover_all() -> None:
    assert closed_texts(["WAIT", "wait", "WAIT", "Done", "Done", "Done"]) == ("WAIT", "Done")
    assert closed_texts([f"text {i}" for i in range(50)]) == ("",)
    assert closed_texts([]) == ("",)


def test_a_log_whose_functions_are_hardly_called_is_refused(tmp_path: Path) -> None:
    waits = [e for e in examples(60, seed=4) if not e.tool_calls]
    context = TrainContext(seed=0, seconds=60, work=tmp_path, monotonic=time.monotonic)
    with pytest.raises(DataError, match="None of its functions is called at least 3 times"):
        train_tool_call(waits, [], tmp_path, context)


def test_the_same_calls_and_seed_give_the_same_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tmp_path / name, examples(60, seed=5))
    first, second = (load_file(tmp_path / n / "weights.safetensors") for n in ("a", "b"))
    assert all((first[k] == second[k]).all() for k in first)
    assert (tmp_path / "a" / "calls.json").read_bytes() == (tmp_path / "b" / "calls.json").read_bytes()


def test_a_run_that_is_stopped_stops(tmp_path: Path) -> None:
    context = TrainContext(seed=0, seconds=60, work=tmp_path, monotonic=time.monotonic, stopped=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        train_tool_call(examples(60, seed=6), [], tmp_path, context)


def test_a_folder_without_a_model_is_corrupt(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "calls.json").write_text('{"manners": {}}', encoding="utf-8")
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    seal(tmp_path, {"kind": "tool_call"})
    with pytest.raises(CorruptModel, match="holds no model of function calls"):
        load(tmp_path)


class _Clock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return time.monotonic()


def _traces(count: int, seed: int) -> list[Trace]:
    out = []
    for one in examples(count, seed=seed):
        message: dict[str, Any] = {"role": "assistant", "content": one.content}
        if one.tool_calls:
            message = {"role": "assistant", "content": None, "tool_calls": list(one.tool_calls)}
        finish = "tool_calls" if one.tool_calls else "stop"
        out.append(
            Trace(
                id=TraceId(one.id),
                request={"model": "big", **one.request.body},
                response={"choices": [{"index": 0, "message": message, "finish_reason": finish}]},
                timestamp=1_700_000_000.0,
            )
        )
    return out


def test_a_task_of_function_calls_is_found_learnt_gated_and_evaluated(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    registry = SqlRegistry(home.database)
    report = learn(
        store=MemoryTraceStore(_traces(420, seed=7)),
        registry=registry,
        home=home,
        config=Config(),
        clock=_Clock(),
        loader=load,
        time_limit_min=10.0,
    )
    [task] = report.tasks
    assert (task.verdict, task.kind, task.output_kind) == ("pass", "tool_call", "tool_call"), task.reason
    [version] = registry.versions()
    assert version.evidence["loss"] == "tool_call"
    ready = Loaded(version=version, engine=load(home.models / version.folder, version.sha256))
    router = Router(todays_snapshot(registry.tasks(), registry.versions()))
    scored, rows = evaluate(_traces(80, seed=8), router=router, load=lambda key: ready)
    assert scored["total"]["coverage"] > 0.6
    assert scored["total"]["right"] > 0.9
    called = [row["raw"]["tool_calls"][0] for row in rows if row["raw"] and row["raw"].get("tool_calls")]
    assert {c["function"]["name"] for c in called} == {"book_ride", "get_order"}
    assert len({c["id"] for c in called}) == len(called)


def test_where_time_is_short_whole_conversations_are_left_out(tmp_path: Path) -> None:
    context = TrainContext(seed=0, seconds=100 * SECONDS_PER_CALL, work=tmp_path, monotonic=time.monotonic)
    report = train_tool_call(examples(160, seed=9), [], tmp_path, context)
    assert (report.steps, report.details["left_out"]) == (100, {"no time": 60})


def test_a_training_that_was_stopped_fits_nothing_twice_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, fits = examples(120, seed=1), []
    real = tool_call.fit

    def counted(*args: Any, **kwargs: Any) -> Any:
        fits.append(1)
        if len(fits) == dies_at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(tool_call, "fit", counted)

    def go(name: str, work: Path) -> bytes:
        context = TrainContext(seed=0, seconds=60, work=work, monotonic=time.monotonic)
        train_tool_call(taught, [], tmp_path / name, context)
        return (tmp_path / name / "weights.safetensors").read_bytes()

    dies_at = 0
    undisturbed = go("whole", tmp_path / "a")
    in_all = len(fits)
    fits.clear()
    dies_at = 6
    with pytest.raises(KeyboardInterrupt):
        go("killed", tmp_path / "b")
    (tmp_path / "b" / "tool_call" / "arguments-1.safetensors").write_bytes(b"half a file")
    fits.clear()
    dies_at = 0
    assert go("killed", tmp_path / "b") == undisturbed
    assert len(fits) == in_all - 5 + 1, "the five that were kept but for the broken one"
    fits.clear()
    taught = examples(120, seed=2)
    assert go("others", tmp_path / "b") != undisturbed
    assert len(fits) == in_all, "what other calls gave is not taken for this"
