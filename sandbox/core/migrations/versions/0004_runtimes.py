"""Runtimes: a snapshot may be the layer of a language runtime, whatever task had it built."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("snapshots", sa.Column("runtime", sa.String(80)))


def downgrade() -> None:
    """Drop it; the layers are garbage then."""
    op.execute("DELETE FROM snapshots WHERE runtime IS NOT NULL")
    op.drop_column("snapshots", "runtime")
