"""The novelty pool.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "novel_calls",
        sa.Column("trace_id", sa.String(200), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("why", sa.String(40), nullable=False),
        sa.Column("near", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("trace_id", name="pk_novel_calls"),
    )
    op.create_index("ix_novel_calls_at", "novel_calls", ["at"])


def downgrade() -> None:
    op.drop_table("novel_calls")
