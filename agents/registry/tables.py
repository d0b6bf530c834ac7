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
    UniqueConstraint,
)

#: the newest migration that this Shoal knows
HEAD = "0003"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

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
    Column("description", Text, nullable=False),
    Column("match", JSON, nullable=False),
    Column("excluded", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
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
    Column("folder", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("threshold", Double, nullable=False),
    Column("alpha", Double, nullable=False),
    Column("delta", Double, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("needs", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("task_id", "number"),
)

#: what happened to a version; `from_state` is empty for its birth
version_events = Table(
    "version_events",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("task_id", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("from_state", String(20), nullable=False),
    Column("to_state", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_version_events_version", "task_id", "number"),
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
    Column("comment", Text, nullable=False),
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
    Column("reason", Text, nullable=False),
    Column("tasks", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("pid", Integer),
    Column("pid_created_at", Double),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("report", JSON),
)
