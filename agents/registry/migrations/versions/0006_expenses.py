"""What is spent beside the calls of clients: audits, shadows, learning.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "expenses",
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Double(), nullable=False),
        sa.Column("unpriced", sa.BigInteger(), nullable=False),
        sa.Column("cpu_ms", sa.Double(), nullable=False),
        sa.Column("gpu_ms", sa.Double(), nullable=False),
        sa.Column("energy_joules", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("task_id", "kind", "day", name="pk_expenses"),
    )


def downgrade() -> None:
    op.drop_table("expenses")
