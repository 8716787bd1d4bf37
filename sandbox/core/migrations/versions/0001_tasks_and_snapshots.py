"""Tasks with attempts and turns, and snapshots: the first shape of the database."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("created", sa.String(32), nullable=False, index=True),
        sa.Column("started", sa.String(32)),
        sa.Column("ended", sa.String(32)),
        sa.Column("commit", sa.String(64)),
        sa.Column("error", sa.JSON),
        sa.Column("cache", sa.JSON),
        sa.Column("network", sa.JSON, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("task", sa.String(32), sa.ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
    )
    op.create_table(
        "turns",
        sa.Column("task", sa.String(32), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("exit_code", sa.Integer),
        sa.Column("phases", sa.JSON, nullable=False),
        sa.Column("diff", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.ForeignKeyConstraint(["task", "attempt"], ["attempts.task", "attempts.number"], ondelete="CASCADE"),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), nullable=False, index=True),
        sa.Column("image_digest", sa.String(80), nullable=False),
        sa.Column("layer", sa.String(64), nullable=False),
        sa.Column("repo", sa.Text),
        sa.Column("commit", sa.String(64)),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("snapshots", "turns", "attempts", "tasks"):
        op.drop_table(table)
