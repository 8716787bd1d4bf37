"""Digests: what a snapshot's files looked like when they were kept, so that damage is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; snapshots from before are not checked."""
    op.add_column("snapshots", sa.Column("digest", sa.String(64)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("snapshots", "digest")
