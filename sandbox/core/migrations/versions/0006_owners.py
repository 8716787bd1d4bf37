"""Owners: tasks, environments and secrets belong to users of the host; what there was is root's."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("environments", "secrets")


def _columns(table: str) -> list[sa.Column[Any]]:
    """Those from before; new ones each time: a column belongs to one table."""
    times = [sa.Column(name, sa.String(32), nullable=False) for name in ("created", "changed")]
    if table == "environments":
        name = sa.Column("name", sa.String(64), primary_key=True)
        return [name, sa.Column("settings", sa.JSON, nullable=False), sa.Column("remote", sa.Text), *times]
    name = sa.Column("name", sa.String(128), primary_key=True)
    sealed = sa.Column("sealed", sa.LargeBinary, nullable=False)
    return [name, sealed, *(sa.Column(one, sa.JSON, nullable=False) for one in ("phases", "broker")), *times]


def _owner() -> sa.Column[Any]:
    return sa.Column("owner", sa.BigInteger, primary_key=True, server_default="0")


def upgrade() -> None:
    """Add the owners, by which names of environments and secrets are unique from now on."""
    op.add_column("tasks", sa.Column("owner", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_tasks_owner", "tasks", ["owner"])
    members = sa.Column("members", sa.JSON, nullable=False, server_default="[]")
    _make_anew("environments", _owner(), members, sa.Column("epoch", sa.String(16), nullable=False, server_default=""))
    _make_anew("secrets", _owner())
    op.execute("UPDATE snapshots SET environment = '0:' || environment WHERE environment IS NOT NULL")


def downgrade() -> None:
    """Drop them, with what isn't root's: its names may not be unique."""
    for table in ("tasks", *_TABLES):
        op.execute(f"DELETE FROM {table} WHERE owner != 0")
    op.execute("DELETE FROM snapshots WHERE environment NOT LIKE '0:_%'")
    op.execute("UPDATE snapshots SET environment = substr(environment, 3)")
    op.drop_index("ix_tasks_owner", "tasks")
    op.drop_column("tasks", "owner")
    for table in _TABLES:
        _make_anew(table)


def _make_anew(table: str, *more: sa.Column[Any]) -> None:
    """SQLite can't change a primary key: another table takes the rows over."""
    columns = _columns(table)
    op.create_table(f"_{table}", *more, *columns)
    names = ", ".join(column.name for column in columns)
    op.execute(f"INSERT INTO _{table} ({names}) SELECT {names} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"_{table}", table)
