"""The socket's door: users of the host have what is theirs and what was shared with them, and hear of nothing else."""

from __future__ import annotations

import grp
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from sandbox.api.bounds import BODY, CONNECTIONS
from sandbox.client import ApiError, Client, DaemonUnreachable
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.users import ALICE, BOB, GAMES, TASK, HostUser, ended, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose socket users may use."""
    with serving(tmp_path_factory) as daemon:
        yield daemon


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
    there_is_one = any(group.gr_name == "hutch" for group in grp.getgrall())
    assert new_daemon.socket.stat().st_mode & 0o777 == (0o660 if there_is_one else 0o600)


def test_a_state_is_roots_alone(tmp_path: Path) -> None:
    for name in ("shared", "bobs", "open"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "shared/file").touch()
    os.chown(tmp_path / "bobs", BOB, BOB)
    for name, words in (("shared", "it holds other things"), ("bobs", "it isn't root's")):
        with pytest.raises(AssertionError, match=words):
            Daemon(tmp_path / name).start()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o755
    with Daemon(tmp_path / "open"):
        assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700


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
    task = alice.does(lambda client: client.create_task({**TASK, "command": ["sleep", "30.25"]}))["id"]
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
            lambda client, name=name: client.create_task({**TASK, "environment": name}),
            lambda client, name=name: client.effective({"environment": name}),
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
        return ended(bob, environment=name, setup=None, command=["cat", "/made"])

    def change(client: Client) -> Any:
        return client.replace_environment(name, {"image": "tiny", "setup": "echo made >/made"})

    alice.does(lambda client: client.share_environment(web, f"user:{BOB}", "see"))
    assert bob.does(lambda client: client.environment(name))["name"] == name
    assert refused(bob, lambda client: client.environment(web)) == 404, "a name alone is one's own"
    assert refused(bob, lambda client: client.create_task({**TASK, "environment": name})) == 403
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


def test_nobody_is_given_an_environment_that_he_did_not_name(
    daemon: Daemon, alice: HostUser, bob: HostUser, place: Path
) -> None:
    repo = alice.repo(place, **{"file": "of alice\n"})
    settings = {"image": "tiny", "repo": str(repo), "setup": "cat file >/stolen"}
    bob.does(lambda client: client.create_environment("evil", settings))
    bob.does(lambda client: client.share_environment("evil", f"user:{ALICE}", "use"))
    try:
        assert ended(alice, repo=str(repo))["environment"] is None
        done = tasks.run(daemon, "true", repo=str(repo), image="tiny", setup="")
        assert (done["state"], done["environment"]) == ("succeeded", None)
        named = ended(alice, environment=f"{BOB}:evil", setup=None)
        assert f"cannot read {repo} as {BOB}" in named["error"]["message"], (
            "its repository is the one that Bob may read"
        )
        assert "cannot read" in tasks.run(daemon, "true", environment=f"{BOB}:evil")["error"]["message"]
    finally:
        bob.does(lambda client: client.remove_environment("evil"))


def made(daemon: Daemon, task: str) -> str:
    """What setup has written; nothing between two phases."""
    with suppress(ApiError):
        return tasks.execute(daemon, task, "cat", "/made").text
    return ""


TAKEN: dict[str, Callable[[Client], Any]] = {
    "unshared": lambda client: client.unshare_environment("left", f"user:{BOB}"),
    "less": lambda client: client.share_environment("left", f"user:{BOB}", "see"),
    "removed": lambda client: client.remove_environment("left"),
}


@pytest.mark.parametrize("how", TAKEN)
def test_who_has_no_part_any_more_leaves_nothing(daemon: Daemon, alice: HostUser, bob: HostUser, how: str) -> None:
    settings = {"image": "tiny", "setup": f"echo good >/made; while ! [ -e /go ]; do sleep 0.05; done # {how}"}
    alice.does(lambda client: client.create_environment("left", settings))
    alice.does(lambda client: client.share_environment("left", f"user:{BOB}", "use"))
    spec = {"command": ["true"], "environment": f"{ALICE}:left"}
    try:
        his, hers = (who.does(lambda client, name=name: client.create_task({**spec, "environment": name}))["id"]
                     for who, name in ((bob, f"{ALICE}:left"), (alice, "left")))  # fmt: skip
        tasks.wait_for(lambda: made(daemon, his) == "good", "his setup")
        tasks.execute(daemon, his, "sh", "-c", "echo poison >/made")
        alice.does(TAKEN[how])
        assert tasks.finish(daemon, his)["state"] == "cancelled"
        tasks.wait_for(lambda: made(daemon, hers) == "good", "her own setup")
        if how != "removed":
            alice.does(lambda client: client.reset_cache("left"))
        tasks.execute(daemon, hers, "touch", "/go")
        assert tasks.finish(daemon, hers)["state"] == "succeeded"
        assert alice.does(lambda client: [one for one in client.snapshots() if one["environment"] == "left"]) == []
    finally:
        with suppress(ApiError):
            alice.does(lambda client: client.remove_environment("left"))


def test_a_task_goes_on_that_a_group_may_still_run(daemon: Daemon, alice: HostUser, bob: HostUser, web: str) -> None:
    for member in ("group:games", "user:4321"):
        alice.does(lambda client, member=member: client.share_environment(web, member, "use"))
    name = f"{ALICE}:{web}"
    task = bob.does(lambda client: client.create_task({"command": ["sleep", "30.5"], "environment": name}))["id"]
    tasks.wait_for(lambda: tasks.host_pids("30.5"), "the agent")
    alice.does(lambda client: client.unshare_environment(web, "user:4321"))
    assert daemon.client.task(task)["state"] == "running", "he is of that group, though no database says so"
    alice.does(lambda client: client.unshare_environment(web, "group:games"))
    assert tasks.finish(daemon, task)["state"] == "cancelled"


@pytest.mark.parametrize("path", ["/gc", "/images/build", "/images/pull", "/execs/x/resize", "/tasks"])
def test_a_body_without_end_is_refused(bob: HostUser, path: str) -> None:
    def send(client: Client) -> int:
        connection = HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(client.socket)
        pieces = (b'"' + b"x" * (1 << 20) for _ in range(BODY >> 19))
        with suppress(BrokenPipeError, ConnectionResetError):  # it was refused before all was sent
            connection.request("POST", path, pieces, {"Content-Type": "application/json"}, encode_chunked=True)
        return connection.getresponse().status

    assert bob.does(send) == 413


def test_a_user_cannot_take_all_connections(bob: HostUser) -> None:
    def hold(client: Client) -> bytes:
        held = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS + 1)]
        for one in held:
            one.connect(client.socket)
        held[-1].settimeout(5)
        with suppress(ConnectionResetError):
            return held[-1].recv(1)
        return b""

    assert bob.does(hold) == b"", "the last one is closed at once"
    assert bob.does(lambda client: client.health())


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
    assert refused(bob, lambda client: client.create_task({**TASK, "secrets": ["ONLY_HERS"]})) == 400

    kept = 'printf %s "$TOKEN" | wc -c >/length'
    assert ended(bob, setup=kept, secrets=["TOKEN"], command=["grep", "16", "/length"])["state"] == "succeeded"
    settings = {"image": "tiny", "secrets": ["TOKEN"], "setup": kept}
    alice.does(lambda client: client.create_environment("lending", settings))
    alice.does(lambda client: client.share_environment("lending", f"user:{BOB}", "use"))
    mixed = ended(bob, environment=f"{ALICE}:lending", setup=None, command=["grep", "18", "/length"])
    assert mixed["state"] == "succeeded", "its secrets are Alice's"
    alice.does(lambda client: client.remove_environment("lending"))
