"""The tables that the daemon keeps, as SQLAlchemy has them. What makes and changes them is in migrations/."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.BigInteger, nullable=False, index=True),
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
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("task", sa.String(32), sa.ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
)
turns = sa.Table(
    "turns",
    metadata,
    sa.Column("task", sa.String(32), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("exit_code", sa.Integer),
    sa.Column("phases", sa.JSON, nullable=False),
    sa.Column("diff", sa.JSON),
    sa.Column("result", sa.JSON),
    sa.ForeignKeyConstraint(["task", "attempt"], ["attempts.task", "attempts.number"], ondelete="CASCADE"),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("image_digest", sa.String(80), nullable=False),
    sa.Column("layer", sa.String(64), nullable=False),
    sa.Column("repo", sa.Text),
    sa.Column("commit", sa.String(64)),
    sa.Column("environment", sa.String(80)),
    sa.Column("checkout", sa.String(64)),
    sa.Column("runtime", sa.String(80)),
    sa.Column("digest", sa.String(64)),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("owner", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("phases", sa.JSON, nullable=False),
    sa.Column("broker", sa.JSON, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),
)
environments = sa.Table(
    "environments",
    metadata,
    sa.Column("owner", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("members", sa.JSON, nullable=False),
    sa.Column("epoch", sa.String(16), nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("remote", sa.Text),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),
)
