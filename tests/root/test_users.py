"""The socket's door: users of the host have what is theirs and what was shared with them, and hear of nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rootfs.git_url import parse
from rootfs.git_user import User
from sandbox.client import ApiError, Client, DaemonUnreachable
from tests.support import git_servers, leaks, repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.users import ALICE, BOB, GAMES, GROUP, TASK, HostUser, ended, open_directory


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose socket the group may use, with the image `tiny`."""
    before, state = leaks.look(), tmp_path_factory.mktemp("state")
    with Daemon(state, options=("--group", GROUP), directory=open_directory("hutch-test-")) as daemon:
        tiny.install(daemon, tiny.archive(tmp_path_factory.mktemp("image") / "tiny.tar"))
        yield daemon
    assert not leaks.settled_difference(before)


@pytest.fixture
def alice(daemon: Daemon) -> HostUser:
    return HostUser(daemon.socket, ALICE, (daemon.socket.stat().st_gid,))


@pytest.fixture
def bob(daemon: Daemon) -> HostUser:
    return HostUser(daemon.socket, BOB, (daemon.socket.stat().st_gid, GAMES))


@pytest.fixture
def place() -> Iterator[Path]:
    """Where repositories of users lie."""
    path = open_directory("hutch-users-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def web(alice: HostUser) -> Iterator[str]:
    """An environment of Alice's."""
    settings = {"image": "tiny", "setup": "echo made >/made"}
    yield alice.does(lambda client: client.create_environment("web", settings))["name"]
    with suppress(ApiError):
        alice.does(lambda client: client.remove_environment("web"))


def refused(user: HostUser, calls: Callable[[Client], Any]) -> int:
    """The status of what a user may not do."""
    return int(told(user, calls).partition(" ")[0])


def told(user: HostUser, calls: Callable[[Client], Any]) -> str:
    """The status and the words of it."""
    with pytest.raises(ApiError) as caught:
        user.does(calls)
    return f"{caught.value.status} {caught.value.message}"


# Before any that needs the shared daemon, which would be seen as a leak.
def test_without_that_group_only_root_does(new_daemon: Daemon) -> None:
    new_daemon.start()
    assert new_daemon.socket.stat().st_mode & 0o777 == 0o600 or new_daemon.socket.stat().st_gid != 0


def test_a_group_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot serve the group nowhere: there is none"):
        Daemon(tmp_path, options=("--group", "nowhere")).start()


def test_who_is_not_in_the_group_does_not_reach_the_daemon(daemon: Daemon) -> None:
    stranger = HostUser(daemon.socket, ALICE, (GAMES,))
    with pytest.raises(DaemonUnreachable, match="no permission"):
        stranger.does(lambda client: client.health())


ABOUT_A_TASK: dict[str, Callable[[Client, str], Any]] = {
    "show": lambda client, task: client.task(task),
    "events": lambda client, task: client.events(task, follow=False).read(),
    "follow": lambda client, task: client.events(task, follow=True).read(),
    "diff": lambda client, task: client.diff(task).read(),
    "inspect": lambda client, task: client.inspect(task),
    "cancel": lambda client, task: client.cancel(task),
    "remove": lambda client, task: client.remove_task(task),
    "exec": lambda client, task: client.exec(task, ["true"]).read(),
    "network": lambda client, task: client.network(task),
    "allow": lambda client, task: client.add_rules(task, ["example.com"]),
    "set": lambda client, task: client.change_network(task, {"access": "unrestricted"}),
    "explain": lambda client, task: client.explain(task, "https://example.com/"),
}


def test_a_task_is_its_owners_and_roots(daemon: Daemon, alice: HostUser, bob: HostUser) -> None:
    task = alice.does(lambda client: client.create_task({**TASK, "command": ["sleep", "30.25"]}))["id"]  # type: ignore[typeddict-item]
    tasks.wait_for(lambda: tasks.host_pids("30.25"), "the agent")
    for what, call in ABOUT_A_TASK.items():
        for name in (task, task[:4]):
            assert refused(bob, lambda client, call=call, name=name: call(client, name)) == 404, what
    assert task not in [one["id"] for one in bob.does(lambda client: client.tasks())]
    assert bob.does(lambda client: client.usage()) == []
    assert [one["task"] for one in alice.does(lambda client: client.usage())] == [task]
    assert [one["id"] for one in alice.does(lambda client: client.tasks())] == [task]
    assert daemon.client.task(task)["owner"] == str(ALICE)
    assert task in [one["id"] for one in daemon.client.tasks()]
    alice.does(lambda client: client.cancel(task))
    tasks.finish(daemon, task)
    alice.does(lambda client: client.remove_task(task))


def test_who_changed_what_is_written_down(daemon: Daemon, bob: HostUser) -> None:
    bob.does(lambda client: client.set_secret("AUDITED", "a-value-that-is-nowhere", {}))
    refused(bob, lambda client: client.remove_image("tiny"))
    bob.does(lambda client: client.remove_secret("AUDITED"))
    path = daemon.state / "audit.ndjson"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "a-value-that-is-nowhere" not in path.read_text()
    lines = [json.loads(line) for line in path.read_text().splitlines()][-3:]
    assert [(one["uid"], one["method"], one["path"], one["status"]) for one in lines] == [
        (BOB, "PUT", "/secrets/AUDITED", 200), (BOB, "DELETE", "/images/tiny", 403), (BOB, "DELETE", "/secrets/AUDITED", 204),
    ]  # fmt: skip
    assert all(one["pid"] > 1 and one["at"].endswith("Z") for one in lines)


ADMINISTRATION: dict[str, Callable[[Client], Any]] = {
    "build": lambda client: list(client.build_image("base", "base")),
    "pull": lambda client: list(client.pull_image("tiny", "registry.example/x")),
    "import": lambda client: list(client.import_image("tiny", [b"x"])),
    "remove image": lambda client: client.remove_image("tiny"),
    "gc": lambda client: client.gc(),
    "metrics": lambda client: client.metrics(),
    "downloads": lambda client: client.artifacts(),
    "clear downloads": lambda client: client.clear_artifacts(),
}


@pytest.mark.parametrize("what", ADMINISTRATION)
def test_what_concerns_everybody_is_roots(bob: HostUser, what: str) -> None:
    assert refused(bob, ADMINISTRATION[what]) == 403
    assert bob.does(lambda client: client.image("tiny"))["name"] == "tiny"


def test_an_environment_is_not_there_for_others(daemon: Daemon, bob: HostUser, web: str) -> None:
    missing = told(bob, lambda client: client.environment("nothing"))
    for name in (web, f"{ALICE}:{web}"):
        calls: list[Callable[[Client], Any]] = [
            lambda client, name=name: client.environment(name),
            lambda client, name=name: client.replace_environment(name, {}),
            lambda client, name=name: client.remove_environment(name),
            lambda client, name=name: client.reset_cache(name),
            lambda client, name=name: client.share_environment(name, f"user:{BOB}", "change"),
            lambda client, name=name: client.create_task({**TASK, "environment": name}),  # type: ignore[typeddict-item]
            lambda client, name=name: client.effective({"environment": name}),  # type: ignore[typeddict-item]
        ]
        for call in calls:
            assert told(bob, call) == missing.replace("nothing", name)
    assert bob.does(lambda client: client.environments()) == []
    assert bob.does(lambda client: client.create_environment("web", {"image": "tiny"}))["name"] == "web"
    bob.does(lambda client: client.remove_environment("web"))
    assert [one["name"] for one in daemon.client.environments()] == [f"{ALICE}:web"]


def test_members_may_what_they_were_given(alice: HostUser, bob: HostUser, web: str) -> None:
    assert ended(alice, environment=web, setup=None)["state"] == "succeeded"
    name = f"{ALICE}:{web}"

    def run() -> dict[str, Any]:
        return ended(bob, environment=web, setup=None, command=["cat", "/made"])

    def change(client: Client) -> Any:
        return client.replace_environment(name, {"image": "tiny", "setup": "echo made >/made"})

    alice.does(lambda client: client.share_environment(web, f"user:{BOB}", "see"))
    assert bob.does(lambda client: client.environment(web))["name"] == name
    assert refused(bob, lambda client: client.create_task({**TASK, "environment": web})) == 403  # type: ignore[typeddict-item]
    assert bob.does(lambda client: client.snapshots())[0]["environment"] == name

    alice.does(lambda client: client.share_environment(web, "group:games", "use"))
    task = run()
    assert (task["state"], task["environment"], task["cache"]["hit"]) == ("succeeded", name, True)
    assert refused(alice, lambda client: client.task(task["id"])) == 404, "the task is Bob's alone"
    assert refused(bob, change) == 403
    assert refused(bob, lambda client: client.reset_cache(name)) == 403
    snapshot = bob.does(lambda client: client.snapshots())[0]["id"]
    assert refused(bob, lambda client: client.remove_snapshot(snapshot)) == 403

    alice.does(lambda client: client.share_environment(web, "group:games", "change"))
    bob.does(change)
    for call in (
        lambda client: client.remove_environment(name),
        lambda client: client.share_environment(name, "user:root", "see"),
        lambda client: client.replace_environment(name, {"secrets": ["OF_ALICE"]}),
    ):
        assert refused(bob, call) == 403
    assert bob.does(lambda client: client.reset_cache(name))["snapshots"] == 1

    alice.does(lambda client: client.unshare_environment(web, "group:games"))
    assert refused(bob, change) == 403, "he may still see it"
    alice.does(lambda client: client.unshare_environment(web, f"user:{BOB}"))
    assert refused(bob, change) == 404


def test_without_an_environment_nobody_shares_a_cached_state(alice: HostUser, bob: HostUser) -> None:
    setup = "echo of-whom >/made"
    assert ended(alice, setup=setup)["cache"]["hit"] is False
    assert ended(alice, setup=setup)["cache"]["hit"] is True
    assert ended(bob, setup=setup)["cache"] | {"key": ""} == {
        "hit": False, "key": "", "reason": "first run of this environment",
    }  # fmt: skip
    of_alice = alice.does(lambda client: client.snapshots())
    assert not {one["id"] for one in of_alice} & {one["id"] for one in bob.does(lambda client: client.snapshots())}
    identity = of_alice[0]["id"]
    assert refused(bob, lambda client: client.snapshot(identity)) == 404
    assert refused(bob, lambda client: client.remove_snapshot(identity)) == 404


def test_secrets_are_their_owners_and_lent_by_an_environment(alice: HostUser, bob: HostUser) -> None:
    for user, value in ((alice, "the-value-of-alice"), (bob, "the-value-of-bob")):
        user.does(lambda client, value=value: client.set_secret("TOKEN", value, {}))
    alice.does(lambda client: client.set_secret("ONLY_HERS", "another-value-of-hers", {}))
    assert [one["name"] for one in bob.does(lambda client: client.secrets())] == ["TOKEN"]
    assert refused(bob, lambda client: client.rotate_secret("ONLY_HERS", "x" * 20)) == 404
    assert refused(bob, lambda client: client.remove_secret("ONLY_HERS")) == 404
    assert refused(bob, lambda client: client.create_task({**TASK, "secrets": ["ONLY_HERS"]})) == 400  # type: ignore[typeddict-item]

    kept = 'printf %s "$TOKEN" | wc -c >/length'
    assert ended(bob, setup=kept, secrets=["TOKEN"], command=["grep", "16", "/length"])["state"] == "succeeded"
    settings = {"image": "tiny", "secrets": ["TOKEN"], "setup": kept}
    alice.does(lambda client: client.create_environment("lending", settings))
    alice.does(lambda client: client.share_environment("lending", f"user:{BOB}", "use"))
    mixed = ended(bob, environment="lending", setup=None, command=["grep", "18", "/length"])
    assert mixed["state"] == "succeeded", "its secrets are Alice's"
    alice.does(lambda client: client.remove_environment("lending"))


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
        task = client.create_task({**TASK, "repo": str(shallow), "command": ["git", "log", "--oneline"]})["id"]  # type: ignore[typeddict-item]
        with client.events(task, follow=True) as stream:
            events = list(stream)
        return events[-1]["task"]["state"], [event["text"] for event in events if event["type"] == "notice"]

    for _ in range(2):
        state, notices = alice.does(run)
        assert state == "succeeded", notices
        assert any("1 uncommitted change is not part of the run" in text for text in notices)


def test_files_of_a_user_are_read_as_he(alice: HostUser, place: Path) -> None:
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
