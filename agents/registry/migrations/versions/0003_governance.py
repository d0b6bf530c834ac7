"""Who asked for each step of a version and in which epoch; versions in training; which comparisons are counted.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("version_events", sa.Column("asker", sa.String(20), nullable=False, server_default=""))
    op.add_column("version_events", sa.Column("epoch", sa.BigInteger(), nullable=True))
    op.create_index("ix_version_events_epoch", "version_events", ["epoch", "task_id", "number"], unique=True)
    op.add_column("versions", sa.Column("served_at", sa.Double(), nullable=True))
    op.execute(
        "UPDATE versions SET served_at = (SELECT max(e.at) FROM version_events e WHERE e.to_state = 'serving'"
        " AND e.task_id = versions.task_id AND e.number = versions.number)"
    )
    op.create_table(
        "trainings",
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_trainings"),
    )
    op.create_table(
        "senders",
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("counted", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_senders"),
    )


def downgrade() -> None:
    op.drop_table("senders")
    op.drop_table("trainings")
    op.drop_column("versions", "served_at")
    op.drop_index("ix_version_events_epoch", "version_events")
    op.drop_column("version_events", "epoch")
    op.drop_column("version_events", "asker")
