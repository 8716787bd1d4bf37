"""What the daemon remembers: tasks with their attempts and turns, snapshots, environments, sealed secrets, in SQL by SQLAlchemy.

One writer, the daemon. Every change is committed when the method returns. SQLite in WAL mode here; nothing depends on
it, so that a fleet can put it on PostgreSQL.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from sandbox.core.access import Member
from sandbox.core.errors import BadRequest, NotFound, NotStored
from sandbox.core.model import ACTIVE, Environment, EnvironmentHead, Phase, Secret, Snapshot, Task, TaskSpec
from sandbox.core.tables import attempts, environments, secrets, snapshots, tasks, turns

_ID = 32  # letters of a task's id, at most
_CLOCKS_DIFFER = 60.0  # seconds
_TASK_FIELDS = ("state", "created", "started", "ended", "commit", "error", "cache", "network")
_TURN_FIELDS = ("exit_code", "diff", "result")

# Built once: these run while a sandbox's start waits for them.
_INSERT_TASK = tasks.insert()
_INSERT_ATTEMPT = attempts.insert()
_INSERT_TURN = turns.insert()
_UPDATE_TASK = (
    tasks.update().where(tasks.c.id == sa.bindparam("_id")).values({name: sa.bindparam(name) for name in _TASK_FIELDS})
)
_UPDATE_SPEC = tasks.update().where(tasks.c.id == sa.bindparam("_id")).values(spec=sa.bindparam("spec"))
_UPDATE_TURN = (
    turns.update()
    .where(turns.c.task == sa.bindparam("_id"))
    .values({name: sa.bindparam(name) for name in ("phases", *_TURN_FIELDS)})
)


class Store:
    """The database at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.SingletonThreadPool)
        sa.event.listen(self._engine, "connect", _configure_sqlite)
        self._migrate()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def add_task(self, task: Task) -> None:
        """Store a new task with its first attempt and turn."""
        with self._writing() as db:
            own = {"id": task.id, "owner": task.spec.owner, "spec": task.spec.to_json()}
            db.execute(_INSERT_TASK, {**own, **_fields(task, _TASK_FIELDS)})
            db.execute(_INSERT_ATTEMPT, {"task": task.id, "number": 1})
            db.execute(_INSERT_TURN, {"task": task.id, "attempt": 1, "number": 1, **_turn(task)})

    def update_task(self, task: Task) -> None:
        """Store what has changed of a task."""
        with self._writing() as db:
            db.execute(_UPDATE_TASK, {"_id": task.id, **_fields(task, _TASK_FIELDS)})
            db.execute(_UPDATE_TURN, {"_id": task.id, **_turn(task)})

    def update_spec(self, identity: str, spec: TaskSpec) -> None:
        """Store what was changed of what the user asked for."""
        with self._writing() as db:
            db.execute(_UPDATE_SPEC, {"_id": identity, "spec": spec.to_json()})

    def task(self, prefix: str, owner: int | None = None) -> Task:
        """The task whose id begins with `prefix`, of those of `owner` (None: of all). Raises NotFound, or BadRequest when there
        are several."""
        if len(prefix) > _ID:
            raise NotFound(f"there is no task {prefix[:_ID]!r}…", "hutch task ls shows what there is")
        begins = tasks.c.id.startswith(prefix, autoescape=True)
        found = self._tasks(sa.and_(begins, _of_owner(owner)), 2)
        if not found:
            raise NotFound(f"there is no task {prefix!r}", "hutch task ls shows what there is")
        if len(found) > 1 and found[0].id != prefix:
            raise BadRequest(f"the task id {prefix!r} is ambiguous", "give more of its letters")
        return found[0]

    def list_tasks(self, owner: int | None = None, limit: int = 1000) -> list[Task]:
        """The tasks of `owner` (None: of all), newest first."""
        return self._tasks(_of_owner(owner), limit)

    def task_ids(self) -> set[str]:
        """The ids of all tasks."""
        with self._engine.connect() as db:
            return set(db.execute(sa.select(tasks.c.id)).scalars())

    def active_tasks(self) -> list[Task]:
        """Tasks that are queued or running."""
        return self._tasks(tasks.c.state.in_(ACTIVE), 100_000)

    def cache_keys(self) -> Counter[str]:
        """How many tasks of those that are stored asked for each cache key."""
        with self._engine.connect() as db:
            found = db.execute(sa.select(tasks.c.cache)).scalars()
            return Counter(cache["key"] for cache in found if cache)

    def tasks_ended_before(self, moment: str) -> list[Task]:
        """Tasks that ended before an ISO 8601 time."""
        return self._tasks(tasks.c.ended < moment, 100_000)

    def remove_task(self, identity: str) -> None:
        """Forget a task."""
        with self._writing() as db:
            db.execute(tasks.delete().where(tasks.c.id == identity))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot, in place of those of its key."""
        with self._writing() as db:
            db.execute(snapshots.delete().where(snapshots.c.key == snapshot.key))
            db.execute(snapshots.insert().values(**asdict(snapshot)))

    def snapshot(self, key: str) -> Snapshot | None:
        """The newest snapshot of `key` that has not expired."""
        moment = time.time()
        # One from the future was made before the clock was set back: nobody knows how old it is.
        live = sa.and_(
            snapshots.c.key == key, snapshots.c.expires > moment, snapshots.c.created <= moment + _CLOCKS_DIFFER
        )
        return next(iter(self._snapshots(live)), None)

    def latest_snapshot(self, repo: str | None, scope: str | None) -> Snapshot | None:
        """The newest snapshot of a repository in a scope, whatever its key; to explain a miss."""
        same = sa.and_(
            snapshots.c.repo.is_not_distinct_from(repo),
            snapshots.c.environment.is_not_distinct_from(scope),
            snapshots.c.runtime.is_(None),
        )
        return next(iter(self._snapshots(same)), None)

    def list_snapshots(self) -> list[Snapshot]:
        """All snapshots, newest first."""
        return self._snapshots(sa.true())

    def remove_snapshot(self, identity: str) -> None:
        """Forget a snapshot; its layer is garbage from then on."""
        with self._writing() as db:
            db.execute(snapshots.delete().where(snapshots.c.id == identity))

    def put_secret(self, secret: Secret) -> None:
        """Store a secret, in place of one of its owner and name."""
        with self._writing() as db:
            db.execute(secrets.delete().where(_named(secrets, secret.owner, secret.name)))
            db.execute(secrets.insert().values(**asdict(secret)))

    def secret(self, owner: int, name: str) -> Secret | None:
        """The secret of this owner and name."""
        return next(iter(self._secrets(_named(secrets, owner, name))), None)

    def list_secrets(self, owner: int) -> list[Secret]:
        """The secrets of an owner, in the order of their names."""
        return self._secrets(secrets.c.owner == owner)

    def remove_secret(self, owner: int, name: str) -> None:
        """Forget a secret."""
        with self._writing() as db:
            db.execute(secrets.delete().where(_named(secrets, owner, name)))

    def put_environment(self, environment: Environment) -> None:
        """Store an environment, in place of one of its owner and name."""
        values = {**asdict(environment), "members": [member.to_json() for member in environment.members]}
        with self._writing() as db:
            db.execute(environments.delete().where(_named(environments, environment.owner, environment.name)))
            db.execute(environments.insert().values(**values))

    def environment(self, owner: int, name: str) -> Environment | None:
        """The environment of this owner and name."""
        return next(iter(self._environments(_named(environments, owner, name))), None)

    def environment_heads(self, owner: int | None = None) -> list[EnvironmentHead]:
        """What tells environments from each other: those of an owner, and all that are shared with anybody (None: all there are);
        in the order of their names."""
        head = environments.c
        image = head.settings["image"].as_string()
        query = sa.select(head.owner, head.name, head.members, head.remote, head.created, head.changed, image)
        if owner is not None:
            query = query.where(sa.or_(head.owner == owner, sa.cast(head.members, sa.Text) != "[]"))
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(head.name, head.owner)).all()
        return [
            EnvironmentHead(owner, name, tuple(Member(**one) for one in members), *rest)
            for owner, name, members, *rest in rows
        ]

    def count_environments(self, owner: int) -> int:
        """How many an owner has."""
        query = sa.select(sa.func.count()).select_from(environments).where(environments.c.owner == owner)
        with self._engine.connect() as db:
            return db.execute(query).scalar() or 0

    def settings_size(self, owner: int) -> int:
        """Bytes of the settings of all environments of an owner."""
        query = sa.select(sa.func.sum(sa.func.length(sa.cast(environments.c.settings, sa.Text))))
        with self._engine.connect() as db:
            return db.execute(query.where(environments.c.owner == owner)).scalar() or 0

    def remove_environment(self, owner: int, name: str) -> None:
        """Forget an environment."""
        with self._writing() as db:
            db.execute(environments.delete().where(_named(environments, owner, name)))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.OperationalError as error:
            raise NotStored(
                f"cannot write the database {self._path}: {error.orig}", "free some space (hutch gc)"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def _tasks(self, condition: sa.ColumnElement[bool], limit: int) -> list[Task]:
        query = sa.select(tasks, turns).join(turns, turns.c.task == tasks.c.id).where(condition)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(tasks.c.created.desc(), tasks.c.id).limit(limit)).mappings().all()
        return [_to_task(row) for row in rows]

    def _snapshots(self, condition: sa.ColumnElement[bool]) -> list[Snapshot]:
        query = sa.select(snapshots).where(condition).order_by(snapshots.c.created.desc())
        with self._engine.connect() as db:
            return [Snapshot(**row) for row in db.execute(query).mappings()]

    def _secrets(self, condition: sa.ColumnElement[bool]) -> list[Secret]:
        query = sa.select(secrets).where(condition).order_by(secrets.c.name)
        with self._engine.connect() as db:
            return [Secret(**row) for row in db.execute(query).mappings()]

    def _environments(self, condition: sa.ColumnElement[bool]) -> list[Environment]:
        query = sa.select(environments).where(condition).order_by(environments.c.name, environments.c.owner)
        with self._engine.connect() as db:
            rows = db.execute(query).mappings().all()
        return [Environment(**{**row, "members": tuple(Member(**one) for one in row["members"])}) for row in rows]


def _of_owner(owner: int | None) -> sa.ColumnElement[bool]:
    return sa.true() if owner is None else tasks.c.owner == owner


def _named(table: sa.Table, owner: int, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.owner == owner, table.c.name == name)


def _configure_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _fields(task: Task, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(task, name) for name in names}


def _turn(task: Task) -> dict[str, Any]:
    return {"phases": [asdict(phase) for phase in task.phases], **_fields(task, _TURN_FIELDS)}


def _to_task(row: Any) -> Task:
    return Task(
        id=row[tasks.c.id],
        spec=TaskSpec.from_json(row[tasks.c.spec]),
        phases=tuple(Phase(**phase) for phase in row[turns.c.phases]),
        **{name: row[tasks.c[name]] for name in _TASK_FIELDS},
        **{name: row[turns.c[name]] for name in _TURN_FIELDS},
    )
