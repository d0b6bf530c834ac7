from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres import Server
from sqlalchemy import insert, text

from shoal.agents.fakes import FakeClock
from shoal.agents.registry import database as opening
from shoal.agents.registry import tables
from shoal.agents.registry.evidence import Evidence, Seen
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import ConfigError, Conflict, DataError, InvalidRequest, NotFound, SiteError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where tests that are about SQLite's file have it."""
    return tmp_path / "home" / "shoal.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def registry(database: str, clock: FakeClock) -> Iterator[SqlRegistry]:
    made = SqlRegistry(database, clock=clock)
    yield made
    made.close()


def task(name: str, **fields: Any) -> Task:
    defaults: dict[str, Any] = {"output_kind": OutputKind.LABEL, "calls": 10, "created_at": 5.0}
    return Task(id=TaskId(f"id-{name}"), name=name, **{**defaults, **fields})


def version(number: int = 1, *, of: str = "a", **fields: Any) -> Version:
    defaults: dict[str, Any] = {
        "kind": "classifier",
        "state": VersionState.SHADOW,
        "folder": f"{of}/{number}",
        "sha256": "0" * 64,
        "threshold": 0.9,
        "alpha": 0.05,
        "delta": 0.1,
        "created_at": 6.0,
    }
    return Version(task_id=TaskId(f"id-{of}"), number=number, **{**defaults, **fields})


def test_tasks_and_versions_come_back_as_they_went_in(registry: SqlRegistry, database: str) -> None:
    one = task("a", description="d", match={"prompt": ["x", 1, None]}, excluded=True, reason="r")
    two = task("b", output_kind=OutputKind.TOOL_CALL, created_at=4.0)
    registry.put_tasks([one, two])
    made = version(
        evidence={"coverage": 0.8, "rows": [1, 2]}, needs={"cpus": 0.5, "tier": ""}, threshold=float("inf")
    )
    registry.add_version(made)
    registry.add_version(version(2, reason="why", threshold=0.123456789012345))
    registry.close()
    again = SqlRegistry(database)
    assert again.tasks() == [two, one]
    assert again.task("a") == one == again.task("id-a")
    assert again.versions() == [made, version(2, reason="why", threshold=0.123456789012345)]
    assert again.versions(TaskId("id-b")) == []


def test_what_is_not_there_is_named_with_a_remedy(registry: SqlRegistry) -> None:
    with pytest.raises(NotFound, match=r"no task 'x'.*shoal tasks ls"):
        registry.task("x")
    for key in ("id-a@1", "nonsense", "@1", "id-a@one"):
        with pytest.raises(NotFound, match="shoal specialists ls"):
            registry.set_state(key, VersionState.SERVING, reason="")
    with pytest.raises(NotFound, match="Put the task first"):
        registry.add_version(version())


def test_every_change_raises_the_epoch_by_one_and_reading_does_not(registry: SqlRegistry) -> None:
    assert registry.epoch() == 0
    registry.put_tasks([task("a"), task("b")])
    assert registry.epoch() == 1
    registry.add_version(version())
    assert registry.epoch() == 2
    registry.set_state("id-a@1", VersionState.CANARY, reason="")
    assert registry.epoch() == 3
    registry.add_correction("exclude", {"task": "a"})
    assert registry.epoch() == 4
    registry.remove_tasks([TaskId("id-b")])
    assert registry.epoch() == 5
    registry.put_tasks([])
    registry.tasks(), registry.versions(), registry.history("id-a@1"), registry.corrections()
    registry.add_feedback("t", score=1)
    registry.keep(Seen(counts={("id-a@1", "shadow"): (1, 1)}))
    registry.contradict("id-a@1", "t", 5.0)
    assert registry.epoch() == 5


def test_a_change_that_fails_changes_nothing(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a"), task("b")])
    registry.add_version(version())
    epoch = registry.epoch()
    with pytest.raises(Conflict, match="both be called 'b'"):
        registry.put_tasks([task("c"), replace(task("a"), name="b")])
    with pytest.raises(Conflict, match="id-a@1 is there already"):
        registry.add_version(version())
    with pytest.raises(NotFound):
        registry.set_state("id-a@9", VersionState.SERVING, reason="")
    assert registry.epoch() == epoch
    assert [t.name for t in registry.tasks()] == ["a", "b"]


def test_putting_a_task_again_replaces_it_and_keeps_its_versions(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a")])
    registry.add_version(version())
    registry.put_tasks([task("a", calls=99, created_at=0.0)])
    assert registry.tasks() == [task("a", calls=99)]
    assert registry.versions() == [version()]


def test_tasks_may_swap_their_names(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a"), task("b")])
    registry.put_tasks([replace(task("a"), name="b"), replace(task("b"), name="a")])
    assert registry.task("a").id == "id-b"
    assert registry.task("b").id == "id-a"


def test_the_history_of_a_version_is_kept(registry: SqlRegistry, clock: FakeClock) -> None:
    registry.put_tasks([task("a")])
    registry.add_version(version(reason="passed its gate"))
    clock.advance(5)
    registry.set_state("id-a@1", VersionState.SERVING, reason="promoted")
    assert registry.versions()[0].state is VersionState.SERVING
    assert registry.versions()[0].reason == "promoted"
    events = [
        {name: event[name] for name in ("from", "to", "reason", "asker", "epoch", "at")}
        for event in registry.history("id-a@1")
    ]
    born = {
        "from": "",
        "to": "shadow",
        "reason": "passed its gate",
        "asker": "gate",
        "epoch": 2,
        "at": 1000.0,
    }
    served = {"from": "shadow", "to": "serving", "reason": "promoted", "asker": "owner"}
    assert events == [born, {**served, "epoch": 3, "at": 1005.0}]
    assert registry.history("id-a@2") == []


def test_removing_a_task_takes_its_versions_and_never_reuses_their_numbers(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a")])
    assert registry.next_number(TaskId("id-a")) == 1
    registry.add_version(version(1))
    registry.add_version(version(2))
    registry.remove_tasks([TaskId("id-a"), TaskId("nobody")])
    assert registry.versions() == []
    assert registry.next_number(TaskId("id-a")) == 3


def test_corrections_are_kept_in_order(registry: SqlRegistry) -> None:
    registry.add_correction("rename", {"from": "a", "to": "b"})
    registry.add_correction("merge", {"tasks": ["a", "b"]})
    assert [(c["kind"], c["payload"]) for c in registry.corrections()] == [
        ("rename", {"from": "a", "to": "b"}),
        ("merge", {"tasks": ["a", "b"]}),
    ]


def test_feedback_is_kept_and_checked(registry: SqlRegistry) -> None:
    registry.add_feedback("t1", score=-0.5, comment="meh", client_id="c")
    registry.add_feedback("t2", correction={"role": "assistant", "content": "right"})
    (one,) = registry.feedback("t1")
    assert one == {
        "trace_id": "t1", "score": -0.5, "correction": None, "comment": "meh", "client_id": "c", "at": 1000.0,
    }  # fmt: skip
    assert [f["trace_id"] for f in registry.feedback()] == ["t1", "t2"]
    first, second = registry.feedback_after(0)
    assert (first["trace_id"], second["trace_id"]) == ("t1", "t2")
    assert registry.feedback_after(first["sequence"]) == [second]
    for bad in ({"score": 2}, {"score": float("nan")}, {}):
        with pytest.raises(InvalidRequest):
            registry.add_feedback("t", **bad)  # type: ignore[arg-type]


def test_comparisons_add_up_by_stage_and_the_newest_bets_stand(registry: SqlRegistry) -> None:
    registry.keep(Seen(counts={("id-a@1", "shadow"): (10, 9)}, bets={("id-a@1", "shadow"): {"rounds": 10}}))
    registry.keep(Seen(counts={("id-a@1", "shadow"): (5, 5)}, bets={("id-a@1", "shadow"): {"rounds": 15}}))
    registry.keep(Seen(counts={("id-a@1", "audit"): (1, 0)}))
    assert registry.comparisons("id-a@1") == {"shadow": (15, 14), "audit": (1, 0)}
    stages = registry.evidence("id-a@1").stages
    assert (stages["shadow"].bets, stages["audit"].bets) == ({"rounds": 15}, None)
    with pytest.raises(InvalidRequest):
        registry.keep(Seen(counts={("id-a@1", "shadow"): (1, 2)}))


def test_what_is_kept_together_is_kept_or_lost_together(registry: SqlRegistry) -> None:
    with pytest.raises(InvalidRequest):
        registry.keep(
            Seen(
                counts={("id-a@1", "shadow"): (1, 2)},
                watches={"id-a@1": {"blocks": []}},
                senders={"gateway": 9},
            )
        )
    assert registry.counted("gateway") == 0
    assert registry.evidence("id-a@1").watch is None
    registry.keep(Seen(watches={"id-a@1": {"blocks": [[1.0, 2]]}}, senders={"gateway": 9}))
    assert registry.counted("gateway") == 9
    assert registry.evidence("id-a@1").watch == {"blocks": [[1.0, 2]]}


def test_an_answer_is_contradicted_once_and_may_be_taken_back(registry: SqlRegistry) -> None:
    assert registry.contradict("id-a@1", "t1", 5.0)
    assert not registry.contradict("id-a@1", "t1", 5.0)
    assert registry.contradict("id-a@1", "t2", 3.0)
    assert registry.evidence("id-a@1").contradicted == (3.0, 5.0)
    assert registry.contradict("id-a@1", "t1", None)
    assert not registry.contradict("id-a@1", "t1", None)
    assert registry.evidence("id-a@1").contradicted == (3.0,)


def test_a_note_stands_in_the_history_and_moves_nothing(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a")])
    registry.add_version(version())
    before = registry.epoch()
    registry.keep(Seen(notes=[("id-a@1", "inputs drifted"), ("gone@1", "inputs drifted")]))
    last = registry.history("id-a@1")[-1]
    assert (last["from"], last["to"], last["reason"]) == ("shadow", "shadow", "inputs drifted")
    assert registry.epoch() == before
    assert registry.history("gone@1") == []


def test_evidence_begins_anew_when_a_version_is_asked_again_and_the_breach_stays_told(
    registry: SqlRegistry,
) -> None:
    registry.put_tasks([task("a")])
    registry.add_version(version())
    registry.set_state("id-a@1", VersionState.SERVING, reason="")
    registry.keep(Seen(counts={("id-a@1", "audit"): (9, 1)}, watches={"id-a@1": {"blocks": []}}))
    registry.contradict("id-a@1", "t1", 5.0)
    broken = Move(
        version_key="id-a@1", before=VersionState.SERVING, after=VersionState.PAUSED, reason="8 of 9"
    )
    registry.move([broken], asker=Asker.AUDIT)
    assert registry.comparisons("id-a@1") == {"audit": (9, 1)}
    registry.set_state("id-a@1", VersionState.SERVING, reason="")
    assert registry.evidence("id-a@1") == Evidence()
    assert registry.broken() == {"id-a@1": ("8 of 9", 1000.0)}


_CHILD = """
import sys
from pathlib import Path
from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.registry.store import SqlRegistry
sys.stdin.readline()
registry = SqlRegistry(sys.argv[1])
for number in range(25):
    name = f"{sys.argv[2]}-{number}"
    registry.put_tasks([Task(id=TaskId(name), name=name, output_kind=OutputKind.TEXT, calls=1)])
"""


def test_processes_that_open_a_fresh_home_at_once_and_write_lose_nothing(bare_database: str) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", _CHILD, bare_database, name], stdin=subprocess.PIPE)
        for name in "abc"
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    assert [child.wait(60) for child in children] == [0, 0, 0]
    registry = SqlRegistry(bare_database)
    assert registry.epoch() == 75
    assert len(registry.tasks()) == 75


def test_threads_share_a_registry(registry: SqlRegistry) -> None:
    threads = [
        threading.Thread(target=lambda n=n: [registry.put_tasks([task(f"{n}-{i}")]) for i in range(10)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.epoch() == 40
    assert len(registry.tasks()) == 40


def test_the_migrations_make_exactly_the_tables_that_the_code_names(bare_database: str) -> None:
    with SqlRegistry(bare_database).database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == tables.HEAD


def test_a_database_of_a_newer_shoal_is_left_alone(registry: SqlRegistry, database: str) -> None:
    with registry.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match=r"made by a newer Shoal .*9999.*Upgrade Shoal"):
        SqlRegistry(database)


def test_a_file_that_is_no_database_is_named_with_a_remedy(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match=r"shoal\.db is damaged.*Move it away"):
        SqlRegistry(path)


def test_a_damaged_database_is_named_with_a_remedy(path: Path) -> None:
    registry = SqlRegistry(path)
    registry.put_tasks([task(f"t{n}", description="x" * 2000) for n in range(50)])
    registry.close()
    raw = bytearray(path.read_bytes())
    raw[20_000 : len(raw) - 5000] = b"\xff" * (len(raw) - 25_000)
    path.write_bytes(raw)
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    with pytest.raises(DataError, match="is damaged"):
        SqlRegistry(path).tasks()


def test_a_locked_database_is_an_error_with_a_remedy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_BUSY_TIMEOUT_S", 0.1)
    registry = SqlRegistry(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(SiteError, match=r"locked by another process.*nothing was changed"):
            registry.put_tasks([task("a")])
        assert registry.tasks() == []  # reading goes on
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    registry.put_tasks([task("a")])


@pytest.mark.parametrize("url", ["nodb://x/y", "postgresql+nodriver://u:secret@h/d"])
def test_a_database_without_a_driver_is_wrong_configuration_and_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqlRegistry(url)
    assert "secret" not in str(caught.value)


def test_a_sqlite_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    SqlRegistry(f"sqlite:///{tmp_path}/x.db").put_tasks([task("a")])
    assert [t.name for t in SqlRegistry(tmp_path / "x.db").tasks()] == ["a"]


def test_figures_without_a_bound_come_back_as_they_went_in(registry: SqlRegistry) -> None:
    registry.put_tasks([task("a")])
    evidence = {"low": float("-inf"), "of": [{"high": float("inf"), "n": 3}], "said": "Infinity"}
    registry.add_version(version(evidence=evidence))
    assert registry.versions()[0].evidence == evidence


def test_what_a_client_wrote_is_kept_whatever_characters_it_has(registry: SqlRegistry) -> None:
    registry.add_feedback("t", comment="a\0b \ud800 ☃")
    correction = {"role": "assistant", "content": "a\0b \ud800"}
    registry.add_feedback("t", correction=correction)
    first, second = registry.feedback("t")
    assert first["comment"].startswith("a\ufffdb \ufffd") and first["comment"].endswith(" ☃")
    assert second["correction"] == correction


def test_an_error_of_the_database_quotes_nothing_that_was_to_be_written(postgres: Server) -> None:
    registry = SqlRegistry(postgres.create("quoting"))
    with pytest.raises(SiteError) as caught, registry.database.write() as connection:
        row = {"name": "secret-name", "counted": 1, "at": 1.0}
        connection.execute(insert(tables.senders).values(**row))
        connection.execute(insert(tables.senders).values(**row))
    assert "secret-name" not in str(caught.value) and "senders" in str(caught.value)
    registry.close()


def test_writers_of_one_database_wait_for_each_other_and_give_up_with_a_remedy(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_BUSY_TIMEOUT_S", 1)
    url = postgres.create("waiting")
    one, two = SqlRegistry(url), SqlRegistry(url)
    with (
        one.database.write(),
        pytest.raises(SiteError, match=r"locked by another process.*nothing was changed"),
    ):
        two.put_tasks([task("a")])
    assert two.tasks() == []
    two.put_tasks([task("a")])
    assert [t.name for t in one.tasks()] == ["a"]
    one.close()
    two.close()


def test_a_password_is_shown_nowhere(postgres: Server) -> None:
    with pytest.raises(SiteError) as caught:
        SqlRegistry(f"postgresql://nobody:hush@/none?host={postgres.folder}")
    assert "hush" not in str(caught.value)
