"""Bets on comparisons, watches over inputs, answers that were contradicted.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("comparisons", sa.Column("bets", sa.JSON(), nullable=True))
    op.create_table(
        "watches",
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_watches"),
    )
    op.create_table(
        "contradictions",
        sa.Column("trace_id", sa.String(200), nullable=False),
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("trace_id", name="pk_contradictions"),
    )
    op.create_index("ix_contradictions_version", "contradictions", ["task_id", "number"])


def downgrade() -> None:
    op.drop_table("contradictions")
    op.drop_table("watches")
    op.drop_column("comparisons", "bets")
