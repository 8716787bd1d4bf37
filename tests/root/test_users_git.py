"""Repositories of users: what root fetches for one of them is what he could have fetched himself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootfs import git_user
from rootfs.git_url import parse
from rootfs.git_user import User
from sandbox.client import Client
from tests.support import git_servers, repos, tasks
from tests.support.daemon import Daemon
from tests.support.users import ALICE, BOB, TASK, HostUser, ended, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose socket users may use."""
    with serving(tmp_path_factory) as daemon:
        yield daemon


# Those that need no daemon come first: the shared one would be seen as their leak.
def test_logins_and_settings_of_root_are_not_for_users(tmp_path: Path) -> None:
    repo, pem = repos.make(tmp_path / "srv/project.git"), git_servers.certificate(tmp_path / "server.pem")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine localhost login user password of-root\n")
    with git_servers.https(repo.parent, pem, "user:of-root") as (port, _):
        url = f"https://localhost:{port}/project.git"
        (home / ".gitconfig").write_text(f'[url "{url}"]\n\tinsteadOf = https://alias.invalid/\n')
        env = {"HOME": str(home), "SSL_CERT_FILE": str(pem)}
        for spelled, reason in ((url, f"no credential was accepted | put a token into {User.of(ALICE).home}"),
                                ("https://alias.invalid/", "the server can't be reached")):  # fmt: skip
            (tmp_path / "state").mkdir(exist_ok=True)
            request = {"op": "fetch", "state": str(tmp_path / "state"), "url": spelled}
            assert "result" in repos.job(request, env), "root may"
            error = repos.job({**request, "user": ALICE}, env)["error"]
            assert reason in f"{error['message']} | {error['remedy']}"


def test_every_user_has_a_mirror_of_his_own() -> None:
    url = "https://git.example/team/web"
    assert len({parse(url).key, parse(url, User.of(ALICE)).key, parse(url, User.of(BOB)).key}) == 3


def test_a_repository_is_read_as_its_user(alice: HostUser, bob: HostUser, place: Path) -> None:
    repo = alice.repo(place, **{"file": "of alice\n"})
    mine = ended(alice, repo=str(repo), command=["sh", "-c", "cat file && echo more >>file"])
    assert (mine["state"], mine["error"], mine["diff"] and mine["diff"]["files"]) == ("succeeded", None, 1)
    not_his = ended(bob, repo=str(repo))
    assert not_his["state"] == "failed"
    assert f"cannot read {repo} as {BOB}" in not_his["error"]["message"]

    borrowing = repos.make(place / "borrowing", {"own": "of bob\n"})
    (borrowing / ".git/objects/info").mkdir(exist_ok=True)
    (borrowing / ".git/objects/info/alternates").write_text(f"{repo}/.git/objects\n")
    head = (repo / ".git/refs/heads/main").read_text()
    (borrowing / ".git/refs/heads/hers").write_text(head)
    bob.owns(borrowing)
    assert ended(bob, repo=str(borrowing), ref="hers", command=["cat", "file"])["state"] == "failed"
    for link in ("gitdir: " + str(repo / ".git"), None):
        shutil.rmtree(borrowing / ".git", ignore_errors=True)
        (borrowing / ".git").write_text(link) if link else (borrowing / ".git").unlink()
        if not link:
            (borrowing / ".git").symlink_to(repo / ".git")
        bob.owns(borrowing)
        assert ended(bob, repo=str(borrowing))["state"] == "failed"


def test_shallow_and_uncommitted_are_noticed_for_users_too(alice: HostUser, place: Path) -> None:
    deep = repos.make(place / "deep", {"file": "1\n"})
    repos.commit(deep, {"file": "2\n"})
    repos.git(place, "clone", "-q", "--depth=1", f"file://{deep}", str(place / "shallow"))
    (place / "shallow/more").write_text("not committed\n")
    shallow = alice.owns(place / "shallow")

    def run(client: Client) -> tuple[Any, list[str]]:
        task = client.create_task({**TASK, "repo": str(shallow), "command": ["git", "log", "--oneline"]})["id"]
        with client.events(task, follow=True) as stream:
            events = list(stream)
        return events[-1]["task"]["state"], [event["text"] for event in events if event["type"] == "notice"]

    for _ in range(2):
        state, notices = alice.does(run)
        assert state == "succeeded", notices
        assert any("1 uncommitted change is not part of the run" in text for text in notices)


def test_what_a_users_git_starts_ends_with_it(alice: HostUser, place: Path) -> None:
    repo = repos.make(place / "busy", {".gitattributes": "* filter=x\n", "file": "1\n"})
    repos.git(repo, "config", "core.fsmonitor", "setsid sleep 61.75 & false")
    repos.git(
        repo, "config", "filter.x.clean", "setsid sleep 61.75 >/dev/null 2>&1 & head -c 3000000 /dev/zero >&2; cat"
    )
    (repo / "file").write_text("2\n")
    assert ended(alice, repo=str(alice.owns(repo)))["state"] == "succeeded"
    tasks.wait_for(lambda: tasks.host_pids("61.75") == [], "the end of what his filter has started", 10)


def test_files_of_a_user_are_read_as_he(alice: HostUser, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_user, "_READ_SECONDS", 0.5)
    user, secret = User(ALICE, ALICE, (ALICE,), "alice", place), place / "of-root"
    secret.write_text("of root")
    secret.chmod(0o600)
    (place / ".netrc").symlink_to(secret)
    assert user.read(place / ".netrc") is None
    (place / ".netrc").unlink()
    (place / ".netrc").write_text("hers")
    (place / ".netrc").chmod(0o600)
    assert user.read(place / ".netrc") is None
    os.chown(place / ".netrc", ALICE, ALICE)
    assert user.read(place / ".netrc") == b"hers"
    assert user.read(place) is None
    os.mkfifo(place / "pipe", 0o644)
    assert user.read(place / "pipe") is None
