"""The database's tables. Only types that SQLite and PostgreSQL both have. Migrations make them; see `migrations/`.

A change here needs a new migration beside it, and `HEAD` moved to it.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

#: the newest migration that this Shoal knows
HEAD = "0006"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Words(TypeDecorator[str]):
    """Text that people or models wrote. PostgreSQL takes no NUL, and no database half a surrogate pair: they become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


#: one row: the number of changes of tasks, versions and corrections so far
meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("output_kind", String(20), nullable=False),
    Column("calls", Integer, nullable=False),
    Column("description", Words, nullable=False),
    Column("match", JSON, nullable=False),
    Column("excluded", Boolean, nullable=False),
    Column("reason", Words, nullable=False),
    Column("created_at", Double, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("task_id", String(200), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(50), nullable=False),
    Column("state", String(20), nullable=False),
    Column("folder", Words, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("threshold", Double, nullable=False),
    Column("alpha", Double, nullable=False),
    Column("delta", Double, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("needs", JSON, nullable=False),
    Column("reason", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("served_at", Double),
    UniqueConstraint("task_id", "number"),
)

#: what happened to a version; `from_state` is empty for its birth, `to_state` where a run gave it up. `asker` and `epoch` (the one that
#: the step made) are empty where an older Shoal wrote it. A version takes one step in an epoch
version_events = Table(
    "version_events",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("task_id", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("from_state", String(20), nullable=False),
    Column("to_state", String(20), nullable=False),
    Column("reason", Words, nullable=False),
    Column("asker", String(20), nullable=False, server_default=""),
    Column("epoch", BigInteger),
    Column("at", Double, nullable=False),
    Index("ix_version_events_version", "task_id", "number"),
    Index("ix_version_events_epoch", "epoch", "task_id", "number", unique=True),
)

#: versions that runs are making now, with the process that makes each
trainings = Table(
    "trainings",
    metadata,
    Column("task_id", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("pid", Integer, nullable=False),
    Column("pid_created_at", Double, nullable=False),
    Column("started_at", Double, nullable=False),
)

#: the owner's word on tasks, which outlives relearning
corrections = Table(
    "corrections",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("rate_per_min", Integer),
    Column("budget_usd", Double),
    Column("spent_usd", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

feedback = Table(
    "feedback",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("trace_id", String(200), nullable=False, index=True),
    Column("score", Double),
    Column("correction", JSON),
    Column("comment", Words, nullable=False),
    Column("client_id", String(200), nullable=False),
    Column("at", Double, nullable=False),
)

#: how often a version's answer agreed with the generalist's, by the stage at which they were compared
comparisons = Table(
    "comparisons",
    metadata,
    Column("task_id", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(20), primary_key=True),
    Column("compared", Integer, nullable=False),
    Column("agreed", Integer, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("bets", JSON),
)

#: what comes in for each version, and how many answers it gave; see `agents/feedback/watching.py`
watches = Table(
    "watches",
    metadata,
    Column("task_id", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", JSON, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: answers of versions that somebody contradicted
contradictions = Table(
    "contradictions",
    metadata,
    Column("trace_id", String(200), primary_key=True),
    Column("task_id", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("answered_at", Double, nullable=False),
    Index("ix_contradictions_version", "task_id", "number"),
)

#: who sends comparisons, and up to which of its numbers they are counted
senders = Table(
    "senders",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("counted", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)

#: plans by name, as `Plan.to_dict` gives them
plans = Table(
    "plans",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("body", JSON, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: runs of plans; `view` is the run as it stood when it ended
plan_runs = Table(
    "plan_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("plan", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("input", JSON, nullable=False),
    Column("label", String(20), nullable=False),
    Column("caller", String(200), nullable=False),
    Column("status", String(20), nullable=False, index=True),
    Column("view", JSON),
    Column("created_at", Double, nullable=False, index=True),
    Column("ended_at", Double),
)

#: parts of steps that are done, with what came of them
plan_parts = Table(
    "plan_parts",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("step", String(140), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("performed", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
)

#: what clients were told of a run
plan_events = Table(
    "plan_events",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("body", JSON, nullable=False),
)

#: what was spent beside the calls of clients, added up by task, kind and day (UTC, days since the epoch)
expenses = Table(
    "expenses",
    metadata,
    Column("task_id", String(200), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("calls", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("usd", Double, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("cpu_ms", Double, nullable=False),
    Column("gpu_ms", Double, nullable=False),
    Column("energy_joules", Double),
)

#: one row: what the placement actor last decided, and for which demands
placements = Table(
    "placements",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("body", JSON, nullable=False),
    Column("decided_at", Double, nullable=False),
)

#: background learning: what for, how it stands, what came of it
learning_runs = Table(
    "learning_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("reason", Words, nullable=False),
    Column("tasks", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("pid", Integer),
    Column("pid_created_at", Double),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("report", JSON),
)

#: the novelty pool: calls that no task covers, by the id of their trace; `kind` names the recurring kind that a call is of
novel_calls = Table(
    "novel_calls",
    metadata,
    Column("trace_id", String(200), primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("why", String(40), nullable=False),
    Column("near", String(200), nullable=False),
    Column("kind", String(200), nullable=False),
)
