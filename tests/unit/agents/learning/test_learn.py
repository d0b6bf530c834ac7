"""The learning run, with real finding and label training, and trainers made up where training must break."""

import errno
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.agents.contract.break_even import Price
from shoal.agents.fakes import FunctionGeneralist, WordEmbedder
from shoal.agents.feedback.ledger import Expense
from shoal.agents.learning.candidates import trainer_of
from shoal.agents.learning.learn import learn
from shoal.agents.learning.learnt_calls import read_learnt_calls
from shoal.agents.learning.report import LearnReport
from shoal.agents.learning.second_opinions import Adviser, SecondOpinions
from shoal.agents.learning.training import Example, TrainContext, Trainer, TrainReport
from shoal.agents.registry.records import VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.erased import count_erased, id_digests
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import Config, parse_config
from shoal.errors import ConfigError, DataError, NotFound, StorageFull
from shoal.home import Home
from shoal.serve.engines import load
from shoal.serve.engines.classifier import ClassifierEngine

INTENTS = "Name the intent of the bank customer's message."
TRIAGE = "Triage the machine whose readings follow."


@dataclass
class _RealClock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return time.monotonic()


def _trace(example: Example, system: str, name: str, served_by: str = "") -> Trace:
    messages = [
        {"role": "system", "content": system},
        *(m for m in example.request.messages if m["role"] != "system"),
    ]
    message = {"role": "assistant", "content": example.content}
    response = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return Trace(
        id=TraceId(name),
        request={"model": "big", "messages": messages},
        response=response,
        timestamp=1_700_000_000.0,
        served_by=served_by,
    )


@dataclass
class _Site:
    home: Home
    registry: SqlRegistry
    store: MemoryTraceStore

    def learn(self, *, config: Config | None = None, limit: float = 10.0, **more: Any) -> LearnReport:
        return learn(
            store=self.store,
            registry=self.registry,
            home=self.home,
            config=config or Config(),
            clock=_RealClock(),
            loader=load,
            time_limit_min=limit,
            **more,
        )

    def by_system(self, report: LearnReport) -> dict[str, Any]:
        return {"intents" if t.output_kind == "label" else "triage": t for t in report.tasks}


@pytest.fixture
def site(tmp_path: Path, made: SimpleNamespace) -> _Site:
    """One task: labels from texts."""
    home = Home(tmp_path / "home").create()
    store = MemoryTraceStore(_trace(e, INTENTS, f"i{n}") for n, e in enumerate(made.label_examples(350)))
    return _Site(home, SqlRegistry(home.database), store)


@pytest.fixture
def both(site: _Site, made: SimpleNamespace) -> _Site:
    """Beside it, answers that follow from the figures of records."""
    site.store.add(_trace(e, TRIAGE, f"r{n}") for n, e in enumerate(made.record_examples(350)))
    return site


def _trainers(**instead: Trainer) -> Any:
    return lambda kind: instead.get(kind) or trainer_of(kind)


def test_a_log_becomes_versions_in_shadow_with_their_evidence(both: _Site) -> None:
    report = both.learn()
    tasks = both.by_system(report)
    assert {name: (t.verdict, t.kind) for name, t in tasks.items()} == {
        "intents": ("pass", "classifier"),
        "triage": ("pass", "record_classifier"),
    }
    versions = {v.key: v for v in both.registry.versions()}
    version = versions[tasks["intents"].version]
    assert version.state == VersionState.SHADOW
    assert (version.alpha, version.delta) == (0.05, 0.05)
    assert version.evidence["gate"]["outcome"] == "pass"
    assert version.evidence["calibration"]["upper_bound"] <= 0.05
    counts = version.evidence["calls"]
    assert counts["train"] + counts["choose"] + counts["calibration"] == 350
    assert version.needs["weights_mb"] > 0
    assert load(both.home.models / version.folder, version.sha256)
    card = json.loads((both.home.models / version.folder / "card.json").read_text())
    assert card["contract"]["threshold"] == version.threshold
    assert "in shadow" in both.registry.task(version.task_id).reason
    assert {"coverage", "accuracy", "macro_f1"} <= set(card["metrics"]) and len(card["data"]["sha256"]) == 64
    assert "# " + tasks["intents"].name in (both.home.models / version.folder / "README.md").read_text()
    triage = versions[tasks["triage"].version].evidence
    assert {"json_valid", "json_exact", "fields_right"} <= set(triage["measures"]["figures"])
    assert triage["coverage_by_alpha"] and triage["costs"]["core_seconds"] > 0
    known = {trace.id for trace in both.store.scan()}
    shown = version.evidence["calls_to_show"]
    assert shown["right"] and {row["id"] for rows in shown.values() for row in rows} <= known


def test_the_generalist_is_asked_twice_where_the_owner_says_so_and_never_of_local_only_calls(
    site: _Site,
) -> None:
    logged = {trace.chat.last_user_text: trace.answer.content or "" for trace in site.store.scan()}
    # it contradicts itself once
    fake = FunctionGeneralist(
        lambda request: "another" if len(fake.requests) == 3 else logged[request.last_user_text]
    )
    price = Price(tokens_in=1, tokens_out=1)
    asking = SecondOpinions(again=Adviser(open=lambda: nullcontext(fake), calls=15, price=price))
    spent: list[Expense] = []
    priced = parse_config(
        {"generalist": {"base_url": "http://x", "model": "m", "price_in": 1, "price_out": 1}}, source="test"
    )
    (task,) = site.learn(opinions=asking, config=priced, spend=spent.extend).tasks
    assert len(fake.requests) == 15
    assert task.figures["self_agreement"]["count"] == 15 and 0 < task.figures["self_agreement"]["value"] < 1
    assert task.break_even is not None and task.break_even["calls"] > 0
    training, again, rest = spent
    assert (training.kind, training.task_id) == ("learning", task.task_id) and training.compute.cpu_ms > 0
    assert (again.kind, again.calls) == ("again", 15) and again.usd > 0
    assert (rest.kind, rest.task_id) == ("learning", "") and rest.compute.cpu_ms > 0

    fake.requests.clear()
    site.store.add([replace(next(iter(site.store.scan())), privacy="local-only")])
    (task,) = site.learn(opinions=asking, force=True).tasks
    assert fake.requests == [] and "self_agreement" not in task.figures
    assert task.break_even is None


def test_a_version_in_training_is_seen_and_a_run_that_is_stopped_leaves_none(site: _Site) -> None:
    seen: list[list[str]] = []

    def look(*args: Any) -> Any:
        seen.append([training.key for training in site.registry.trainings()])
        raise KeyboardInterrupt

    report = site.learn(trainers=_trainers(classifier=look))
    assert {t.verdict for t in report.tasks} == {"stopped"}
    key = f"{report.tasks[0].task_id}@1"
    assert seen == [[key]] and site.registry.trainings() == []
    site.learn()
    steps = [(e["from"], e["to"], e["asker"]) for e in site.registry.history(key)]
    stopped = [("", "training", "learning"), ("training", "", "learning")]
    assert steps == [*stopped, ("", "training", "learning"), ("training", "shadow", "gate")]


def test_a_run_over_one_task_finds_all_tasks_anew_so_that_routers_hear_of_new_ones(
    both: _Site, made: SimpleNamespace
) -> None:
    log = list(both.store.scan())
    old = [trace for trace in log if trace.id.startswith("i")]
    both.store = MemoryTraceStore(old)
    first = both.learn()
    [known] = [task.id for task in both.registry.tasks()]
    epoch = both.registry.epoch()
    both.store = MemoryTraceStore(log)
    both.learn(tasks=[first.tasks[0].name])
    assert both.registry.epoch() > epoch
    assert known in {task.id for task in both.registry.tasks()} and len(both.registry.tasks()) == 2


def test_a_judge_model_is_the_loss_where_the_owner_says_so(site: _Site) -> None:
    # whoever says which place is better prefers nobody, so nothing is wrong; whoever knows the logged answer sees each mistake
    section = {"judge": {"base_url": "http://x", "model": "m"}}
    (name,) = (task.name for task in site.learn().tasks)
    judged = parse_config({**section, "contract": {"tasks": {name: {"loss": "judge"}}}}, source="test")

    def learn(says: Callable[[ChatRequest], str], *, local: bool = True) -> tuple[Any, Any, int]:
        fake = FunctionGeneralist(says)
        who = Adviser(open=lambda: nullcontext(fake), calls=80, local=local)
        (task,) = site.learn(opinions=SecondOpinions(loss=who), config=judged, force=True).tasks
        version = max(site.registry.versions(), key=lambda v: v.number)
        return task, version.evidence, len(fake.requests)

    task, evidence, asked = learn(lambda request: "A")
    assert evidence["judged"] and evidence["calibration"]["count"] == 80
    assert evidence["calibration"]["risk"] == 0.0 and task.verdict == "pass"
    # two orders for each pair that differs, and none for the others
    assert asked % 2 == 0
    site.store.add([replace(next(iter(site.store.scan())), privacy="local-only")])
    task, _, asked = learn(lambda request: "A", local=False)
    assert asked == 0 and task.verdict == "fail" and "No way is known" in task.reason


def test_the_same_log_and_seed_give_the_same_models(site: _Site, tmp_path: Path) -> None:
    first = site.learn()
    other = _Site(Home(tmp_path / "other").create(), SqlRegistry(tmp_path / "other" / "shoal.db"), site.store)
    second = other.learn()
    shas = [[v.sha256 for v in s.registry.versions()] for s in (site, other)]
    assert sorted(shas[0]) == sorted(shas[1])
    assert [t.threshold for t in first.tasks] == [t.threshold for t in second.tasks]


def test_what_has_not_changed_is_not_trained_again_unless_forced(site: _Site) -> None:
    site.learn()
    assert {t.verdict for t in site.learn().tasks} == {"unchanged"}
    assert {t.verdict for t in site.learn(force=True).tasks} == {"pass"}
    assert sorted(v.number for v in site.registry.versions()) == [1, 2]
    states = {(v.number, v.state) for v in site.registry.versions()}
    assert states == {(1, VersionState.RETIRED), (2, VersionState.SHADOW)}


def test_learning_again_after_calls_were_erased_makes_a_version_that_does_not_know_them(site: _Site) -> None:
    erased = {f"i{n}" for n in range(0, 350, 5)}
    site.learn()
    site.store = MemoryTraceStore(t for t in site.store.scan() if t.id not in erased)
    assert {t.verdict for t in site.learn().tasks} != {"unchanged"}
    first, second = sorted(site.registry.versions(), key=lambda v: v.number)
    learnt = {v.number: read_learnt_calls(site.home.models / v.folder) for v in (first, second)}
    assert count_erased(learnt[1], id_digests(erased)) > 0
    assert count_erased(learnt[2], id_digests(erased)) == 0
    calls = first.evidence["calls"]
    assert calls["leakage"]["conversations"] == 0
    kept = calls["train"] - sum(calls["train_duplicates"].values())
    assert len(learnt[1]) == kept + calls["choose"]


def test_new_calls_make_a_new_version(both: _Site, made: SimpleNamespace) -> None:
    both.learn()
    both.store.add(_trace(e, INTENTS, f"n{n}") for n, e in enumerate(made.label_examples(50, seed=9)))
    tasks = both.by_system(both.learn())
    assert (tasks["intents"].verdict, tasks["triage"].verdict) == ("pass", "unchanged")
    assert tasks["intents"].version.endswith("@2")


def test_of_a_task_with_many_calls_a_sample_is_learnt_from_and_the_evidence_counts_the_rest(
    site: _Site,
) -> None:
    config = parse_config({"learning": {"max_calls_per_task": 250}}, source="test")
    (task,) = site.learn(config=config).tasks
    (version,) = site.registry.versions()
    calls = version.evidence["calls"]
    assert task.calls == 250 == calls["train"] + calls["choose"] + calls["calibration"]
    assert calls["left_out"] == {"beyond learning.max_calls_per_task": 100}
    assert len(read_learnt_calls(site.home.models / version.folder)) <= 250
    assert [t.verdict for t in site.learn(config=config).tasks] == ["unchanged"]


def test_only_the_tasks_named_are_learnt(both: _Site) -> None:
    names = {t.name for t in both.learn().tasks}
    one = sorted(names)[0]
    assert [t.name for t in both.learn(tasks=[one], force=True).tasks] == [one]
    with pytest.raises(NotFound, match="nobody"):
        both.learn(tasks=["nobody"])


def test_one_tasks_failure_is_its_reason_and_not_the_runs_end(both: _Site) -> None:
    def broken(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        raise ZeroDivisionError("oh no")

    tasks = both.by_system(both.learn(trainers=_trainers(classifier=broken)))
    assert tasks["triage"].verdict == "pass"
    assert tasks["intents"].verdict == "error"
    assert "ZeroDivisionError: oh no" in tasks["intents"].reason
    assert "oh no" in both.registry.task(tasks["intents"].task_id).reason


def test_what_no_kind_can_learn_is_skipped_with_the_trainers_words(site: _Site) -> None:
    def helpless(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        raise DataError("It is beyond this kind.")

    tasks = site.by_system(site.learn(trainers=_trainers(classifier=helpless)))
    assert (tasks["intents"].verdict, tasks["intents"].reason) == ("skipped", "It is beyond this kind.")


def test_a_costlier_kind_is_tried_where_the_cheaper_one_cannot(both: _Site) -> None:
    def helpless(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        raise DataError("No.")

    triage = both.by_system(both.learn(trainers=_trainers(record_classifier=helpless)))["triage"]
    assert triage.kind in ("classifier", "fields")
    version = next(v for v in both.registry.versions() if v.key == triage.version)
    assert version.evidence["candidates"][0] == {"kind": "record_classifier", "skipped": "No."}


def test_the_winner_is_trained_once_more_on_what_chose_it_and_never_on_what_calibrates(site: _Site) -> None:
    seen: list[tuple[set[str], set[str], bool]] = []

    def spying(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        seen.append(({e.id for e in train}, {e.id for e in choose}, context.settings is not None))
        return trainer_of("classifier")(train, choose, folder, context)

    report = site.learn(trainers=_trainers(classifier=spying))
    (train, choose, first), (all_of_them, none, again) = seen
    assert (first, again, none) == (False, True, set())
    assert all_of_them == train | choose
    version = site.registry.versions()[0]
    calls = version.evidence["calls"]
    assert calls["trained_on"] == len(all_of_them) == 350 - calls["calibration"]
    assert report.tasks[0].verdict == "pass"


def test_another_embedder_makes_another_version_that_names_it(site: _Site) -> None:
    site.learn()
    embedder = WordEmbedder(size=32)
    report = learn(
        store=site.store,
        registry=site.registry,
        home=site.home,
        config=Config(),
        clock=_RealClock(),
        loader=lambda folder: ClassifierEngine.load(folder, lambda name: embedder),
        time_limit_min=10,
        embedder=embedder,
    )
    assert report.tasks[0].verdict == "pass"
    newest = max(site.registry.versions(), key=lambda v: v.number)
    assert newest.number == 2
    card = json.loads((site.home.models / newest.folder / "card.json").read_text())
    assert card["embedder"] == {"name": "fake", "digest": embedder.digest}


def test_labels_at_random_are_rejected_and_never_answer(tmp_path: Path, made: SimpleNamespace) -> None:
    home = Home(tmp_path / "home").create()
    store = MemoryTraceStore()
    store.add(_trace(e, INTENTS, f"i{n}") for n, e in enumerate(made.label_examples(500, noise=1.0)))
    site = _Site(home, SqlRegistry(home.database), store)
    report = site.learn().tasks[0]
    assert report.verdict == "fail"
    version = site.registry.versions()[0]
    assert version.state == VersionState.REJECTED
    assert version.threshold > 1
    assert site.registry.task(version.task_id).reason == report.reason


def test_a_stopped_run_keeps_what_was_finished_and_a_later_one_goes_on(both: _Site) -> None:
    seen: list[str] = []

    def stopping(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        (context.work / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    def resuming(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        seen.append((context.work / "checkpoint").read_text())
        return trainer_of("classifier")(train, choose, folder, context)

    first = both.learn(trainers=_trainers(classifier=stopping))
    assert first.interrupted
    assert not json.loads(Path(first.manifest).read_text())["complete"]
    tasks = both.by_system(first)
    assert tasks["intents"].verdict == "stopped"
    kept = {t.verdict for t in first.tasks} - {"stopped"}
    second = both.learn(trainers=_trainers(classifier=resuming))
    # once to be judged, and once more on all calls
    assert seen == ["half", "half"]
    assert not second.interrupted
    assert both.by_system(second)["intents"].verdict == "pass"
    if "pass" in kept:
        assert both.by_system(second)["triage"].verdict == "unchanged"
    assert list((both.home.work / "training").iterdir()) == []


def test_a_full_disk_ends_the_run_with_its_remedy(site: _Site) -> None:
    def full(
        train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
    ) -> TrainReport:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match="Make room"):
        site.learn(trainers=_trainers(classifier=full, record_classifier=full))


def test_an_empty_log_is_refused_with_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    with pytest.raises(DataError, match="shoal traces import"):
        _Site(home, SqlRegistry(home.database), MemoryTraceStore()).learn()


def test_a_tiny_log_says_how_many_calls_it_takes(tmp_path: Path, made: SimpleNamespace) -> None:
    home = Home(tmp_path).create()
    store = MemoryTraceStore()
    store.add(_trace(e, INTENTS, f"i{n}") for n, e in enumerate(made.label_examples(60)))
    report = _Site(home, SqlRegistry(home.database), store).learn()
    assert all(t.verdict == "skipped" and "it takes 200" in t.reason for t in report.tasks)


def test_captured_answers_need_the_owners_word(tmp_path: Path, made: SimpleNamespace) -> None:
    home = Home(tmp_path).create()
    store = MemoryTraceStore()
    store.add(_trace(e, INTENTS, f"i{n}", "generalist/big") for n, e in enumerate(made.label_examples(300)))
    site = _Site(home, SqlRegistry(home.database), store)
    with pytest.raises(ConfigError, match="outputs_may_train"):
        site.learn()
    generalist = {"base_url": "http://localhost:1", "model": "big", "outputs_may_train": True}
    config = parse_config({"generalist": generalist}, source="test")
    version_key = site.learn(config=config).tasks[0].version
    card = json.loads((home.models / version_key.replace("@", "/") / "card.json").read_text())
    assert card["outputs_may_train"] is True


def test_a_contract_of_its_own_is_used_for_a_task(site: _Site) -> None:
    name = site.by_system(site.learn())["intents"].name
    config = parse_config({"contract": {"tasks": {name: {"alpha": 0.2}}}}, source="test")
    site.learn(config=config)
    assert {v.alpha for v in site.registry.versions() if v.number == 2} == {0.2}


def test_a_limit_too_short_for_anything_trains_nothing_and_says_so(site: _Site) -> None:
    report = site.learn(limit=0.05)
    assert {t.verdict for t in report.tasks} == {"skipped"}
    assert "leaves no time" in report.tasks[0].reason


def test_the_manifest_tells_how_the_time_was_shared(site: _Site) -> None:
    report = site.learn()
    manifest = json.loads(Path(report.manifest).read_text())
    assert manifest["complete"]
    assert set(manifest["budget"]) == {t.name for t in report.tasks}
    assert manifest["report"]["tasks"][0]["verdict"] == "pass"
    assert Path(site.learn().manifest).name == "learn-2.json"


def test_progress_only_grows(site: _Site) -> None:
    told: list[float] = []
    site.learn(progress=lambda fraction, text: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_corrections_make_another_version_of_calls_that_were_learnt_before(site: _Site) -> None:
    first = site.learn()
    assert [t.verdict for t in site.learn().tasks] == ["unchanged"]
    wrong = {t.id: t for t in site.store.scan() if "card" in t.chat.last_user_text.split()}
    feedback = [
        {
            "trace_id": name,
            "score": None,
            "correction": {"role": "assistant", "content": "card_found"},
            "at": 1.0,
        }
        for name in wrong
    ]
    [task] = site.learn(feedback=feedback).tasks
    assert (task.verdict, task.calls) == ("pass", 350)
    old, new = site.registry.versions()
    assert (old.key, old.state) == (first.tasks[0].version, VersionState.RETIRED)
    assert new.state == VersionState.SHADOW
    engine = load(site.home.models / new.folder, new.sha256)
    said = engine.answer([t.chat for t in wrong.values()])
    assert sum(a.content == "card_found" for a in said) > 0.9 * len(wrong)


def test_what_was_corrected_may_train_although_a_specialist_answered_it(site: _Site) -> None:
    site.store.add(
        [replace(t, served_by="specialist/intents@1") for t in site.store.scan() if t.id in ("i1", "i2")]
    )
    assert site.learn().usable == 348
    right = {"role": "assistant", "content": "fee_question"}
    said = {"trace_id": "i1", "score": None, "correction": right, "at": 1.0}
    assert site.learn(feedback=[said]).usable == 349
