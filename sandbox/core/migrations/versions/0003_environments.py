"""Environments: settings under a name; a snapshot knows the one it was made for, and what it has checked out."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the columns."""
    op.create_table(
        "environments",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("remote", sa.Text),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("changed", sa.String(32), nullable=False),
    )
    op.add_column("snapshots", sa.Column("environment", sa.String(64)))
    op.add_column("snapshots", sa.Column("checkout", sa.String(64)))


def downgrade() -> None:
    """Drop them, with all environments."""
    op.drop_column("snapshots", "checkout")
    op.drop_column("snapshots", "environment")
    op.drop_table("environments")
