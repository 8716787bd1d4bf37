"""Who may what with an environment: levels, owners, names; and that what was stored before there were owners is root's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from sandbox.core import store as module
from sandbox.core.access import ROOT, Member, User, full_name, level, shared, shown_scope, without
from sandbox.core.environments import Environments, keeps_for_others
from sandbox.core.errors import BadRequest, Conflict, Forbidden, NotFound
from sandbox.core.model import TaskSpec
from sandbox.core.store import Store

ALICE, BOB = User(1001, frozenset({50})), User(1002, frozenset({50, 60}))


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Environments]:
    store = Store(tmp_path / "hutch.db")
    yield Environments(store)
    store.close()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (ROOT, 3),
        (ALICE, 3),
        (BOB, 1),
        (User(1003), -1),
        (User(1003, frozenset({60})), 1),
        (User(1004, frozenset({61})), 2),
    ],
)
def test_the_most_that_somebody_was_given_counts(user: User, expected: int) -> None:
    members = [Member("user", 1002, "see"), Member("group", 60, "use"), Member("user", 1004, "change")]
    assert level(user, 1001, members) == expected


def test_a_group_is_no_user_of_the_same_number() -> None:
    assert level(User(60), 1, [Member("group", 60, "change")]) == -1
    assert level(User(5, frozenset({60})), 1, [Member("user", 60, "change")]) == -1


def test_who_is_shared_with_again_has_the_new_level() -> None:
    once = shared((), Member("user", 7, "change"))
    assert shared(once, Member("user", 7, "see")) == (Member("user", 7, "see"),)
    assert without(once, Member("group", 7, "see")) == once
    assert without(once, Member("user", 7, "see")) == ()
    with pytest.raises(BadRequest, match="more than 100"):
        shared([Member("user", uid, "see") for uid in range(100)], Member("user", 100, "see"))


@pytest.mark.parametrize(
    "text",
    [
        "root",
        "user:",
        "user:no such user",
        "other:root",
        "user:-1",
        "user:١",
        "user:a\0b",
        "user:" + "9" * 5000,
        "user:4294967295",
        "user:" + "x" * 300,
    ],
)
def test_members_are_users_and_groups_of_the_host(text: str) -> None:
    with pytest.raises(BadRequest, match="cannot share with"):
        Member.named(text, "use")


def test_members_by_name_and_by_number() -> None:
    assert Member.named("user:root", "see") == Member("user", 0, "see")
    assert Member.named("group:54321", "see").shown() == {"member": "group:54321", "may": "see"}


def test_names_of_ones_own_are_short() -> None:
    assert full_name(0, "web", 0) == "web"
    assert full_name(0, "web", 5) == "root:web"
    assert [shown_scope(scope, 7) for scope in (None, "7:", "7:web", "0:web", "web")] == [
        None, None, "web", "root:web", "root:web",
    ]  # fmt: skip


def test_a_name_alone_is_ones_own(environments: Environments) -> None:
    for owner in (ALICE, BOB):
        environments.create(owner, "web", {})
    environments.share(ALICE, "web", Member("user", 1002, "use"))
    assert environments.get(BOB, "web", "own").owner == 1002
    assert environments.get(BOB, "1001:web", "use").owner == 1001
    environments.remove(BOB, "web")
    for user in (BOB, ROOT):
        with pytest.raises(NotFound, match="there is no environment 'web'"):
            environments.get(user, "web", "see")
    assert environments.get(ROOT, "1001:web", "own").owner == 1001
    with pytest.raises(Forbidden, match="you may only use it"):
        environments.get(BOB, "1001:web", "change")


def test_nobody_chooses_an_environment_for_others(environments: Environments) -> None:
    url = "https://git.example/web"
    environments.create(BOB, "evil", {"repo": url})
    environments.share(BOB, "evil", Member("group", 50, "use"))
    assert [environments.of_remote(user, url) for user in (ALICE, ROOT)] == [None, None]
    environments.create(ALICE, "mine", {"repo": url})
    assert environments.of_remote(ALICE, url) == environments.get(ALICE, "mine", "own")
    environments.create(ALICE, "other", {"repo": url + ".git"})
    with pytest.raises(Conflict, match=r"several environments are for .*: mine, other"):
        environments.of_remote(ALICE, url)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secrets": ["A", "C"]}, "the secret C"),
        ({"secret_paths": ["/root/.npmrc"]}, "a place where secrets may stay, /root/.npmrc"),
        ({"repo": "/home/alice/private"}, "another repository"),
        ({"repo": None}, "another repository"),
        ({"cache": {"trusted_refs": ["main", "evil"]}}, "which refs"),
        ({"cache": {}}, "which refs"),
    ],
)
def test_what_reaches_the_owners_other_things_is_his_to_say(
    environments: Environments, change: dict[str, Any], words: str
) -> None:
    settings = {"secrets": ["A", "B"], "repo": "/home/alice/web", "cache": {"trusted_refs": ["main"]}}
    environments.create(ALICE, "web", settings)
    environments.share(ALICE, "web", Member("user", 1002, "change"))
    environments.replace(BOB, "1001:web", {**settings, "secrets": ["B"], "setup": "make"})
    environments.replace(ALICE, "web", settings)
    with pytest.raises(Forbidden, match=words):
        environments.replace(BOB, "1001:web", {**settings, **change})
    environments.replace(ROOT, "1001:web", {**settings, **change})
    assert environments.by_id(User(1003), "1001:web") is None


def test_what_was_begun_before_a_reset_is_kept_for_nobody(environments: Environments) -> None:
    def spec() -> TaskSpec:
        found = environments.get(ALICE, "web", "use")
        return TaskSpec(("true",), environment=found.id, epoch=found.epoch)

    environments.create(ALICE, "web", {})
    changes: list[Callable[[], object]] = [
        lambda: environments.renew(ALICE, "web"),
        lambda: environments.unshare(ALICE, "web", Member("user", 1002, "use")),
        lambda: (environments.remove(ALICE, "web"), environments.create(ALICE, "web", {})),
        lambda: environments.remove(ALICE, "web"),
    ]
    for change in changes:
        before = spec()
        assert keeps_for_others(environments.store, before)
        change()
        assert not keeps_for_others(environments.store, before)
    assert keeps_for_others(environments.store, TaskSpec(("true",), owner=1001))


def test_settings_of_one_user_are_bounded(environments: Environments) -> None:
    script = "x" * (4 << 20)
    for number in range(3):
        environments.create(ALICE, f"web{number}", {"setup": script})
    with pytest.raises(Conflict, match="may have 16 MiB of settings"):
        environments.create(ALICE, "more", {"setup": script})
    environments.create(BOB, "more", {"setup": script})
    assert [one.name for one in environments.of(ALICE)] == ["web0", "web1", "web2"]
    with pytest.raises(Conflict):
        environments.replace(ALICE, "web0", {"setup": script * 2})
    environments.replace(ALICE, "web0", {"setup": ""})


def test_what_there_was_before_owners_is_roots(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'hutch.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).with_name("migrations")))
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.upgrade(config, "0005")
        db.execute(sa.text("INSERT INTO environments VALUES ('web', '{\"image\": \"base\"}', NULL, 'c', 'd')"))
        db.execute(sa.text("INSERT INTO secrets VALUES ('TOKEN', x'00', '[]', '{}', 'c', 'd')"))
        db.execute(
            sa.text(
                "INSERT INTO snapshots (id, key, image_digest, layer, environment, inputs, created, expires)"
                " VALUES ('s', 'k', 'i', 'l', 'web', '{}', 1, 2)"
            )
        )
    engine.dispose()
    store = Store(tmp_path / "hutch.db")
    found = Environments(store).get(ROOT, "web", "own")
    assert (found.id, found.settings, found.members) == ("0:web", {"image": "base"}, ())
    assert [one.name for one in store.list_secrets(0)] == ["TOKEN"]
    assert [one.environment for one in store.list_snapshots()] == ["0:web"]
    assert Environments(store).of(ALICE) == []
    Environments(store).create(ALICE, "web", {})
    store.close()
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.downgrade(config, "0005")
        assert db.execute(sa.text("SELECT name, settings FROM environments")).all() == [("web", '{"image": "base"}')]
        assert db.execute(sa.text("SELECT environment FROM snapshots")).scalars().all() == ["web"]
    engine.dispose()
