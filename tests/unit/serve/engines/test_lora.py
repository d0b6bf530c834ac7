"""Pretrained bases from training to answers, on small random checkpoints of each family made here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="the extra `bases` is not installed")
pytest.importorskip("llguidance", reason="the extra `bases` is not installed")

from small_bases import make_base, orders

from shoal.agents.learning.base_files import read_base
from shoal.agents.learning.bases import NodeRoom
from shoal.agents.learning.candidates import Prospect, trainer_of
from shoal.agents.learning.folder import seal
from shoal.agents.learning.learning_costs import TaskCosts
from shoal.agents.learning.lora import Rung, merge, train_lora
from shoal.agents.learning.lora_executors import InProcess
from shoal.agents.learning.lora_job import Hardware, LoraSettings
from shoal.agents.learning.lora_rungs import Rungs
from shoal.agents.learning.material import Material
from shoal.agents.learning.specialise import specialise
from shoal.agents.learning.survey import Survey
from shoal.agents.learning.task_plan import Plan, Tools
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.traces.chat import ChatRequest
from shoal.config import parse_config
from shoal.errors import CorruptModel, DataError
from shoal.home import Home
from shoal.serve.engines import load
from shoal.serve.engines.lora import BaseCache, LoraEngine

NODES = (NodeRoom(name="here", tier="local", memory_mb=8_000),)
QUICK = LoraSettings(epochs=0, min_steps=8)
LEARNS = LoraSettings(epochs=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of one process wait for each other; beside other work on the machine that takes for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ask(text: str) -> ChatRequest:
    said = [{"role": "system", "content": "You read orders."}, {"role": "user", "content": text}]
    return ChatRequest(body={"messages": said})


def examples(count: int, seed: int) -> list[Example]:
    return [
        Example(id=f"{seed}-{n}", request=ask(prompt), content=json.dumps(answer), group=f"{seed}-{n}")
        for n, (prompt, answer) in enumerate(orders(count, seed))
    ]


TRAIN, CHOOSE = examples(240, 1), examples(40, 2)
TEXTS = [f"{e.request.last_user_text} {e.content}" for e in TRAIN] + [
    "You read orders. user assistant system"
]


def context(
    work: Path, *, stopped: Callable[[], bool] = lambda: False, monotonic: Callable[[], float] = lambda: 0.0
) -> TrainContext:
    return TrainContext(seed=3, seconds=300, work=work, monotonic=monotonic, stopped=stopped)


def rung_of(folder: Path, settings: LoraSettings = QUICK, *, merged: bool = False) -> Rung:
    base, place = read_base(str(folder), allowed=("apache-2.0",))
    return Rung(base=base, folder=place, nodes=NODES, merge=merged, settings=settings)


def train(rung: Rung, folder: Path) -> TrainReport:
    report = train_lora(TRAIN, CHOOSE[:16], folder, context(folder.with_suffix(".work")), rung=rung)
    seal(folder, {"kind": report.kind})
    return report


def merged_copy(version: Path, base: Path, out: Path) -> Path:
    merge(version, base, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (version / name).is_file():
            shutil.copy(version / name, out)
    seal(out, {"kind": "lora"})
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "smollm", "smollm", TEXTS)


@pytest.mark.parametrize("family", ["smollm", "qwen", "qwen3", "phi", "mistral"])
def test_each_family_trains_saves_loads_and_answers_alike_merged_and_unmerged(
    tmp_path: Path, family: str
) -> None:
    learns = family == "smollm"
    rung = rung_of(make_base(tmp_path / family, family, TEXTS), LEARNS if learns else QUICK)
    report = train(rung, tmp_path / "version")
    merged = merged_copy(tmp_path / "version", rung.folder, tmp_path / "merged")
    assert not report.cut_by_clock and report.details["base"]["licence"] == "apache-2.0"
    assert not (tmp_path / "version" / "model.safetensors").exists()
    requests = [e.request for e in CHOOSE]
    apart, together = load(tmp_path / "version").answer(requests), load(merged).answer(requests)
    assert [a.content for a in apart] == [a.content for a in together]
    for one, other in zip(apart, together, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-3)
        assert one.content is not None and json.loads(one.content).keys() == {"action", "thing"}
    if learns:
        right = [
            json.loads(a.content or "") == json.loads(e.content) for a, e in zip(apart, CHOOSE, strict=True)
        ]
        assert sum(right) >= 36 and min(a.confidence for a in apart) > 0.5


def test_versions_of_one_base_share_it_and_leave_when_they_go(tmp_path: Path, base: Path) -> None:
    rung = rung_of(base)
    train(rung, tmp_path / "one")
    train(replace(rung, settings=replace(QUICK, min_steps=12)), tmp_path / "two")
    requests = [e.request for e in CHOOSE[:6]]
    alone = [LoraEngine.load(tmp_path / name, BaseCache()).answer(requests) for name in ("one", "two")]
    cache = BaseCache()
    one, two = LoraEngine.load(tmp_path / "one", cache), LoraEngine.load(tmp_path / "two", cache)
    assert one.shared is two.shared and len(cache) == 1 and len(one.shared.adapters) == 2
    for engine, before in ((one, alone[0]), (two, alone[1]), (one, alone[0])):
        assert [a.confidence for a in engine.answer(requests)] == pytest.approx(
            [a.confidence for a in before]
        )
    assert alone[0] != alone[1]
    del one, engine
    assert len(two.shared.adapters) == 1
    assert [a.content for a in two.answer(requests)] == [a.content for a in alone[1]]
    del two
    assert len(cache) == 0


def test_a_version_is_refused_with_a_base_that_was_altered_and_serves_without_one_when_merged(
    tmp_path: Path,
) -> None:
    place = make_base(tmp_path / "base", "qwen", TEXTS)
    train(rung_of(place), tmp_path / "version")
    train(rung_of(place, merged=True), tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_model.safetensors").exists()
    weights = bytearray((place / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (place / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptModel, match=r"not those that the version was trained on \(SHA-256 differs\)"):
        load(tmp_path / "version")
    shutil.rmtree(place)
    with pytest.raises(CorruptModel, match="it must be a folder or a hub id"):
        load(tmp_path / "version")
    (answer,) = load(tmp_path / "merged").answer([CHOOSE[0].request])
    assert answer.content is not None


def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path: Path, base: Path) -> None:
    rung = rung_of(base, replace(QUICK, min_steps=24))
    whole = train_lora(TRAIN, CHOOSE[:16], tmp_path / "a", context(tmp_path / "wa"), rung=rung)
    asked = iter([False] * 5)

    def killed() -> bool:
        if next(asked, True):
            raise SystemExit("killed between two checkpoints")
        return False

    with pytest.raises(SystemExit):
        train_lora(TRAIN, CHOOSE[:16], tmp_path / "b", context(tmp_path / "wb", stopped=killed), rung=rung)
    (kept,) = (tmp_path / "wb" / "lora").iterdir()
    assert kept.name == "step-4"
    (kept.parent / "half").mkdir()  # as a kill while writing leaves it
    resumed = train_lora(TRAIN, CHOOSE[:16], tmp_path / "b", context(tmp_path / "wb"), rung=rung)
    assert whole.steps == resumed.steps == 24
    for name in ("adapter_model.safetensors", "lora.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@dataclass(frozen=True)
class OnAMachine(InProcess):
    """In this process, as if it were another machine's."""

    machine: Hardware

    def hardware(self) -> Hardware:
        return self.machine


def test_little_memory_means_smaller_parts_and_the_same_weights(tmp_path: Path, base: Path) -> None:
    rung = rung_of(base, replace(QUICK, min_steps=4, dropout=0.0))
    roomy = train_lora(TRAIN, CHOOSE[:16], tmp_path / "a", context(tmp_path / "wa"), rung=rung)
    small = replace(rung, executor=OnAMachine(machine=Hardware(free_mb=502.5)))
    tight = train_lora(TRAIN, CHOOSE[:16], tmp_path / "b", context(tmp_path / "wb"), rung=small)
    assert (roomy.details["rows_at_once"], roomy.details["checkpointing"]) == (16, False)
    assert tight.details["rows_at_once"] < 16 and tight.details["checkpointing"]
    assert tight.details["choose_loss"] == pytest.approx(roomy.details["choose_loss"], rel=1e-4)


def test_in_bf16_a_base_is_trained_and_answers_alike_merged_and_unmerged(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch computes in bf16 on any CPU, if slowly; where the CPU does so by itself, large bases are trained like this
    monkeypatch.setattr("shoal.agents.learning.base_files._SMALL", 0)
    monkeypatch.setattr("shoal.agents.learning.lora.has_bf16", lambda: True)
    rung = rung_of(base, LEARNS)
    report = train(
        replace(rung, executor=OnAMachine(machine=Hardware(free_mb=8_000, bf16=True))), tmp_path / "version"
    )
    assert (report.details["dtype"], report.details["trained_in"]) == ("bfloat16", "bfloat16")
    merged = merged_copy(tmp_path / "version", rung.folder, tmp_path / "merged")
    requests = [e.request for e in CHOOSE]
    apart = LoraEngine.load(tmp_path / "version", BaseCache())
    with apart.shared.turn(apart.adapter) as model:
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    first, second = apart.answer(requests), load(merged).answer(requests)
    right = [
        json.loads(a.content or "{}") == json.loads(e.content) for a, e in zip(first, CHOOSE, strict=True)
    ]
    assert sum(right) >= 36
    assert sum(a.content == b.content for a, b in zip(first, second, strict=True)) >= 39
    for one, other in zip(first, second, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=0.05)


def test_a_run_far_slower_than_nominal_is_cut_by_the_clock_and_says_so(tmp_path: Path, base: Path) -> None:
    ticks = iter(range(0, 100_000, 20))
    slow = context(tmp_path / "w", monotonic=lambda: float(next(ticks)))
    report = train_lora(
        TRAIN, CHOOSE[:16], tmp_path / "m", slow, rung=rung_of(base, replace(QUICK, min_steps=40))
    )
    assert report.cut_by_clock and report.steps < report.details["planned_steps"]


def test_a_base_whose_window_is_too_small_for_the_task_is_refused_with_figures(
    tmp_path: Path, base: Path
) -> None:
    long = [replace(e, request=ask("bolt " * 520)) for e in TRAIN]
    with pytest.raises(DataError, match=r"its context window is 512 tokens, and the task's calls need"):
        train_lora(long, CHOOSE, tmp_path / "m", context(tmp_path / "w"), rung=rung_of(base))


def test_a_hub_id_is_found_in_the_local_cache_with_its_commit(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "a" * 40
    shutil.copytree(base, tmp_path / "models--org--tiny" / "snapshots" / commit)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text(commit, encoding="utf-8")
    found, folder = read_base("org/tiny", allowed=("apache-2.0",))
    assert (found.model, found.revision, folder.name) == ("org/tiny", commit, commit)
    with pytest.raises(DataError, match="it is not in the local Hugging Face cache"):
        read_base("org/other", allowed=("apache-2.0",))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "nothing is ever unpickled"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json must be among its files"),
        (lambda f: (f / "config.json").write_text("{}"), "its architecture must be one of"),
    ],
)
def test_a_base_that_lacks_what_is_read_is_refused(
    tmp_path: Path, base: Path, harm: Callable[[Path], object], why: str
) -> None:
    harm(Path(shutil.copytree(base, tmp_path / "copy")))
    with pytest.raises(DataError, match=why):
        read_base(str(tmp_path / "copy"), allowed=("apache-2.0",))


def test_texts_keep_their_task_s_rules_or_are_no_answers(tmp_path: Path, base: Path) -> None:
    texts = [
        replace(
            e, request=ask(json.dumps({"town": f"T{n}", "degrees": n})), content=f"It is {n} degrees in T{n}."
        )
        for n, e in enumerate(TRAIN)
    ]
    report = train_lora(texts, texts[:9], tmp_path / "m", context(tmp_path / "w"), rung=rung_of(base))
    seal(tmp_path / "m", {"kind": "lora"})
    assert report.details["form"] == "text" and (tmp_path / "m" / "slots.json").is_file()
    # eight steps teach hardly anything, so most of what is written lacks its prompt's values or never ends
    engine = load(tmp_path / "m")
    assert isinstance(engine, LoraEngine) and engine.rules is not None
    asked = [e.request for e in texts[:12]]
    answers = engine.answer(asked)
    assert any(a.content is None and "missing degrees" in a.reason and a.confidence == 0.0 for a in answers)
    for request, answer in zip(asked, answers, strict=True):
        assert answer.content is None or not engine.rules.errors(request, answer.content)


def test_a_base_becomes_a_judged_version_whose_card_names_it(tmp_path: Path, base: Path) -> None:
    mit = shutil.copytree(base, tmp_path / "unlicensed")
    (mit / "README.md").unlink()
    config = parse_config(
        {"learning": {"bases": [str(base), str(mit)], "licences": ["apache-2.0"]}}, source="t"
    )
    rungs = Rungs.survey(config, NODES)
    assert list(rungs.refused) == [str(mit)] and "its licence must be known" in rungs.refused[str(mit)]
    material = Material(examples(300, 5), (), {})
    calls = Survey(ids=[e.id for e in material.examples])
    prospect = rungs.extend(Prospect(kinds=(), loss=OutputKind.LABEL), OutputKind.LABEL, calls, min_calls=50)
    assert prospect.kinds == ("lora@0",)
    home = Home(tmp_path / "home").create()
    plan = Plan(
        task=Task(id=TaskId("t1"), name="orders", output_kind=OutputKind.JSON, calls=300),
        survey=calls,
        prospect=replace(prospect, loss=OutputKind.JSON),
        seconds={"lora@0": 25.0},
        alpha=0.05,
        delta=0.05,
        seed=0,
        inputs="0" * 64,
    )
    tools = Tools(
        costs=TaskCosts(task_id=TaskId("t"), now=lambda: 0.0),
        home=home,
        config=config,
        loader=load,
        trainers=rungs.trainers(trainer_of, calls),
        monotonic=time.monotonic,
        now=lambda: 0.0,
        seconds_left=lambda: 500.0,
    )
    version, verdict, _ = specialise(plan, material, 1, tools)
    assert verdict.passed and version.kind == "lora", version.reason
    card = json.loads((home.models / version.folder / "card.json").read_text(encoding="utf-8"))
    assert card["base"]["model"] == str(base) and card["base"]["licence"] == "apache-2.0"
    assert card["parents"][0]["sha256"] == card["base"]["sha256"] != ""
    assert version.needs["memory_mb"] > 400
    assert version.needs["base"] == f"{card['base']['sha256'][:12]}-float32"
    assert load(home.models / version.folder, version.sha256).answer([ask("now the red nut")])[0].content == (
        '{"action": "stop", "thing": "nut"}'
    )
