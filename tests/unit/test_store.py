"""The database: what is stored comes back the same, and the migrations make what the code expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from sandbox.core import tables
from sandbox.core.errors import BadRequest, NotFound
from sandbox.core.model import Phase, Snapshot, Task, TaskSpec
from sandbox.core.network import DEFAULTS, UNRESTRICTED, NetworkSpec
from sandbox.core.store import Store
from sandbox.host.cgroup_layout import Limits


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "hutch.db")
    yield opened
    opened.close()


def test_a_task_comes_back_as_it_went(store: Store) -> None:
    spec = TaskSpec(
        ("sh", "-c", "é\n"), "https://git.example/p", "main", setup="x", env={"A": "b"},
        limits=Limits(1 << 30, 0.5, 2), secrets=("S",),
        network=DEFAULTS | {"agent": NetworkSpec("limited", rules=("example.com",), methods=("GET",))},
    )  # fmt: skip
    task = Task("aa11", spec)
    store.add_task(task)
    changed = task.changed(
        state="failed", exit_code=3, phases=(Phase("agent", 0.5, 3),), diff={"files": 1}, commit="c" * 40
    )
    store.update_task(changed)
    assert store.task("aa11") == changed
    assert store.list_tasks() == [changed]


def test_what_is_changed_of_a_spec_comes_back(store: Store) -> None:
    task = Task("aa11", TaskSpec(("true",)))
    store.add_task(task)
    changed = dataclasses.replace(task.spec, network=DEFAULTS | {"agent": UNRESTRICTED})
    store.update_spec("aa11", changed)
    assert store.task("aa11") == task.changed(spec=changed)


def test_tasks_from_before_there_were_rules_are_still_read(store: Store, tmp_path: Path) -> None:
    store.add_task(Task("aa11", TaskSpec(("true",))))
    old = {
        "command": ["true"],
        "repo": None,
        "ref": None,
        "image": "base",
        "setup": None,
        "maintenance": None,
        "env": {},
    }
    old |= {"access": "limited", "allow": ["example.com"], "timeout": None, "limits": None}
    engine = sa.create_engine(f"sqlite:///{tmp_path}/hutch.db")
    with engine.begin() as db:
        db.execute(tables.tasks.update().values(spec=old))
    engine.dispose()
    network = DEFAULTS | {"agent": NetworkSpec("limited", rules=("example.com",))}
    assert store.task("aa11").spec == TaskSpec(("true",), network=network)


def test_prefixes_must_be_unambiguous(store: Store) -> None:
    for identity in ("aa11", "aa22", "b%_1"):
        store.add_task(Task(identity, TaskSpec(("true",))))
    assert store.task("aa1").id == "aa11"
    assert store.task("b%_").id == "b%_1"
    with pytest.raises(BadRequest, match="ambiguous"):
        store.task("aa")
    for missing in ("c", "%", "_"):
        with pytest.raises(NotFound, match="there is no task"):
            store.task(missing)


def test_only_a_live_snapshot_of_the_same_key_is_found(store: Store) -> None:
    live = Snapshot("l", "k", "i", "l", "u", None, None, None, {"a": "b"}, created=1.0, expires=4e9)
    expired = Snapshot("e", "old", "i", "e", "u", None, "e", None, {}, created=2.0, expires=3.0)
    store.add_snapshot(live)
    store.add_snapshot(expired)
    assert store.snapshot("k") == live
    assert store.snapshot("old") is None
    assert store.latest_snapshot("u", "e") == expired
    assert store.latest_snapshot("u", None) == live
    assert store.latest_snapshot(None, None) is None
    store.remove_snapshot("l")
    assert store.snapshot("k") is None


def test_removing_a_task_removes_its_turns(store: Store, tmp_path: Path) -> None:
    store.add_task(Task("aa11", TaskSpec(("true",))))
    store.remove_task("aa11")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/hutch.db")
    with engine.connect() as db:
        assert db.execute(sa.select(tables.turns)).all() == []
    engine.dispose()


def test_the_migrations_make_the_tables_of_the_code(store: Store, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/hutch.db")
    found = sa.MetaData()
    found.reflect(engine)
    engine.dispose()
    for name, table in tables.metadata.tables.items():
        assert {c.name for c in found.tables[name].columns} == {c.name for c in table.columns}, name
