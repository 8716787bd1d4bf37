"""Bad input gets one clear sentence, and nothing is lost: repositories and requests that are wrong, odd or hostile.

Judged by what a user sees; the host's own files must be as before.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import ApiError
from sandbox.wire import Exchange
from tests.support import repos, tasks
from tests.support.daemon import HUTCH, Daemon
from tests.support.tasks import sh


def refused(daemon: Daemon, *arguments: str) -> str:
    """A run that must fail before its command runs, by one sentence at the end of stderr; that sentence."""
    done = daemon.hutch("run", *arguments, "--", "echo", "the-command-ran")
    assert done.returncode == 1, done
    assert done.stdout == b""
    text = done.stderr.decode()
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert "cannot" in last, text
    return last


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/x.git", "can't be reached"),
        ("https://name.invalid/x.git", "can't be reached"),
        ("ssh://127.0.0.1:1/x.git", "can't be reached"),
        ("file:///nowhere/at/all", "there is no such directory"),
        ("ftp://127.0.0.1/x", "ftp"),
        ("ext::sh -c 'touch /tmp/hutch-owned'", "cannot"),
        ("http://someone:hunter2@127.0.0.1:1/x.git", "can't be reached"),
    ],
)
def test_a_repository_that_cannot_be_reached(daemon: Daemon, url: str, words: str) -> None:
    said = refused(daemon, "--repo", url)
    assert words in said
    assert not Path("/tmp/hutch-owned").exists()


def test_a_password_in_a_url_is_shown_to_nobody(daemon: Daemon) -> None:
    done = tasks.run(daemon, "true", repo="http://someone:hunter2@127.0.0.1:1/x.git")
    assert done["state"] == "failed"
    assert "hunter2" not in json.dumps([done, tasks.events(daemon, done["id"]), daemon.client.tasks()])
    assert "hunter2" not in daemon.log


def test_a_path_that_is_no_repository(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("x")
    assert "not a git repository" in refused(daemon, "--repo", str(tmp_path / "plain"))
    assert "file" in refused(daemon, "--repo", str(tmp_path / "file"))


def test_an_empty_repository(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    repos.git(tmp_path / "empty", "init", "-q")
    assert "it is empty" in refused(daemon, "--repo", str(tmp_path / "empty"))


def test_links_that_lead_outside_stay_links(daemon: Daemon, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("of the host\n")
    repo = repos.make(tmp_path / "links", {"directory/file": "tracked\n", "a": "x\n"})
    (repo / "outside").symlink_to(victim)
    (repo / "up").symlink_to("../../../../../../../../../../../../.." + str(victim))
    (repo / "shadow").symlink_to("/etc/shadow")
    repos.commit(repo, {}, "links")
    script = f"""
    cat outside/secret up/secret; echo written >outside/new; mkdir -p {victim}; echo inside-only >outside/secret
    rm -r directory; ln -s {victim} directory; rm a; ln -s /proc/self/root/etc/shadow a; ln -sf /etc/hostname shadow
    """
    done = tasks.run(daemon, *sh(script), repo=str(repo))
    assert done["state"] == "succeeded"
    assert b"of the host" not in tasks.output(daemon, done["id"])
    assert sorted(path.name for path in victim.iterdir()) == ["secret"]
    assert (victim / "secret").read_text() == "of the host\n"
    patch = daemon.client.diff(done["id"]).read()
    assert b"of the host" not in patch
    assert b"root:" not in patch
    repos.git(repo, "apply", "--index", "-", stdin=patch)
    assert (repo / "directory").readlink() == victim
    assert (repo / "a").readlink() == Path("/proc/self/root/etc/shadow")
    assert (repo / "shadow").readlink() == Path("/etc/hostname")


def test_submodules_and_lfs_pointers_are_told_of(daemon: Daemon, tmp_path: Path) -> None:
    inner = repos.make(tmp_path / "inner")
    repo = repos.make(tmp_path / "outer", {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    repos.commit(repo, {"big.bin": pointer})
    repos.git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "libs/inner")
    repos.git(repo, "commit", "-q", "-m", "submodule")
    done = tasks.run(daemon, *sh("cat big.bin; ls -A libs/inner; echo more >>big.bin"), repo=str(repo))
    assert done["state"] == "succeeded", done["error"]
    said = tasks.notices(daemon, done["id"])
    assert "submodules are not fetched: libs/inner" in said
    assert "LFS pointers" in said
    assert tasks.output(daemon, done["id"]).decode() == pointer
    assert done["diff"] == {"files": 1, "insertions": 1, "deletions": 0}


NAMES = (
    b"\xff\xfe.txt",
    b"new\nline",
    b"tab\there",
    b'quo"te',
    b"back\\slash",
    b"-dash",
    b" space ",
    b"\xe2\x80\xaeevil.txt",
)


def test_names_that_are_not_utf8(daemon: Daemon, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "names")
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(repo) + b"/" + name)).write_text("before\n")
    repos.commit(repo, {}, "names")
    script = 'for f in *; do [ "$f" = README ] || echo after >>"./$f"; done; printf x >"$(printf \'added\\377\')"'
    done = tasks.run(daemon, *sh(script), repo=str(repo))
    assert (done["state"], done["diff"]["files"]) == ("succeeded", len(NAMES) + 1), (done["error"], done["diff"])
    repos.git(repo, "apply", "--index", "-", stdin=daemon.client.diff(done["id"]).read())
    for name in NAMES:
        assert Path(os.fsdecode(os.fsencode(repo) + b"/" + name)).read_text() == "before\nafter\n"
    assert Path(os.fsdecode(os.fsencode(repo) + b"/added\xff")).read_text() == "x"


HOSTILE_GIT = """
set -e
git config core.fsmonitor 'touch /tmp/owned'; git config core.hooksPath /workspace/hooks
git config diff.x.textconv 'touch /tmp/owned'; git config filter.x.clean 'touch /tmp/owned; cat'
printf '* filter=x diff=x\\n' >.gitattributes; git config filter.x.process 'touch /tmp/owned'
mkdir -p /workspace/hooks; printf '#!/bin/sh\\ntouch /tmp/owned\\n' >/workspace/hooks/pre-commit; chmod +x /workspace/hooks/*
cp -r /workspace/hooks/. .git/hooks/; mkdir sub; cp -r .git sub/.git; mkdir -p '.GIT'; echo x >.GIT/config; mkfifo pipe
echo x >.git/objects/info/alternates; rm .git/index; echo change >>README
"""


def test_a_work_tree_left_hostile_runs_nothing_on_the_host(daemon: Daemon, tmp_path: Path) -> None:
    marker = Path("/tmp/owned")
    assert not marker.exists()
    done = tasks.run(daemon, *sh(HOSTILE_GIT), repo=str(repos.make(tmp_path / "r")))
    assert done["state"] == "succeeded", (done["error"], tasks.output(daemon, done["id"], "agent", "stderr"))
    patch = daemon.client.diff(done["id"]).read()
    assert b"+change" in patch
    assert not marker.exists()
    assert b".GIT" not in patch
    assert b"sub/.git" not in patch
    assert "not in the diff" in tasks.notices(daemon, done["id"])


def test_a_workspace_that_was_replaced(daemon: Daemon, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "r", {"a": "1\n", "b/c": "2\n"})
    for script in (
        "cd /; rm -rf /workspace; ln -s /etc /workspace",
        "cd /; mv /workspace/r /workspace/s; ln -s /etc /workspace/r",
        "cd /; rm -rf /workspace/r; echo x >/workspace/r",
        "cd /; rm -rf /workspace",
    ):
        done = tasks.run(daemon, *sh(script), repo=str(repo))
        assert done["state"] == "succeeded", (script, done["error"])
        patch = daemon.client.diff(done["id"]).read()
        assert b"root" not in patch, script
        assert done["diff"] is not None, script


@pytest.mark.parametrize("where", ["agent", "setup"])
def test_output_without_a_newline_and_of_any_bytes(daemon: Daemon, where: str) -> None:
    program = (
        "import sys; sys.stdout.buffer.write(bytes(range(256)) * 512); sys.stderr.buffer.write(b'\\x1b]0;x\\x07' * 3)"
    )
    command = ("python3", "-c", program)
    if where == "agent":
        done = daemon.hutch("run", "--", *command)
        assert (done.returncode, done.stdout) == (0, bytes(range(256)) * 512)
        assert b"\x1b]0;" not in done.stderr or not os.isatty(2)
    else:
        task = tasks.run(daemon, "true", setup=f'python3 -c "{program}" # {os.urandom(8).hex()}')
        assert tasks.output(daemon, task["id"], "setup") == bytes(range(256)) * 512


def test_many_megabytes_on_one_line(daemon: Daemon) -> None:
    pipeline = f"'{HUTCH}' run -- head -c 30000000 /dev/zero | tail -c +1 | wc -c"
    done = subprocess.run(["sh", "-c", pipeline], capture_output=True, timeout=100, check=True, env=environment(daemon))
    assert int(done.stdout) == 30_000_000


def environment(daemon: Daemon) -> dict[str, str]:
    return {"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"}


def test_more_output_than_is_kept(daemon: Daemon) -> None:
    done = tasks.run(daemon, *sh("head -c 90000000 /dev/zero; echo the-end >/root/x; exit 4"), seconds=110)
    assert (done["state"], done["exit_code"]) == ("failed", 4), "it went on to its own end"
    assert "output; the rest is not kept" in tasks.notices(daemon, done["id"])
    assert (64 << 20) <= len(tasks.output(daemon, done["id"])) < (65 << 20)


def test_arguments_of_any_bytes_or_a_clear_error(daemon: Daemon) -> None:
    command = [HUTCH, "run", "--", "printf", "%s", os.fsdecode(b"a\xffb")]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment(daemon))
    if done.returncode == 0:
        assert done.stdout == b"a\xffb"
    else:
        assert b"Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


WRONG: list[tuple[Any, str]] = [
    ({"command": []}, "command"),
    ({"command": ["true"], "image": "../../etc"}, "image"),
    ({"command": ["true"], "image": "no-such"}, "no image"),
    ({"command": ["tr\0ue"]}, "null"),
    ({"command": ["true"], "env": {"A=B": "x"}}, "A=B"),
    ({"command": ["true"], "env": {"A": "\0"}}, "null"),
    ({"command": ["true"], "network": {"agent": {"access": "everything"}}}, "access"),
    ({"command": ["true"], "network": {"agent": {"rules": ["ex ample.com"]}}}, "ex ample.com"),
    ({"command": ["true"], "network": {"agent": {"access": "off", "rules": ["example.com"]}}}, "access off"),
    ({"command": ["true"], "access": "limited"}, "access"),
    ({"command": ["true"], "timeout": -1}, "timeout"),
    ({"command": ["true"], "limits": {"pids": 1}}, "pids"),
    ({"command": ["true"], "nonsense": 1}, "nonsense"),
    ({"command": "true"}, "command"),
    ({"command": ["x" * (1 << 18)]}, "command"),
    ([], ""),
    ("text", ""),
    (None, ""),
]


@pytest.mark.parametrize(("body", "words"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_wrong_request_is_refused_at_the_door(daemon: Daemon, body: Any, words: str) -> None:
    before = len(daemon.client.tasks())
    status, answer = request(daemon, "POST", "/tasks", json.dumps(body).encode())
    assert status in (400, 404), answer
    assert words in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
    assert len(daemon.client.tasks()) == before


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"", b'{"command": ["\\ud800"]}', b"[" * 100_000])
def test_what_is_no_json_is_refused(daemon: Daemon, body: bytes) -> None:
    status, answer = request(daemon, "POST", "/tasks", body)
    assert status == 400, answer
    assert answer["error"]["message"]


def request(daemon: Daemon, method: str, target: str, body: bytes) -> tuple[int, Any]:
    exchange = Exchange(str(daemon.socket), 30)
    try:
        exchange.send(method, target, {"Content-Type": "application/json"}, body)
        return exchange.status, json.loads(b"".join(exchange.chunks()) or b"null")
    finally:
        exchange.close()


def test_names_in_the_path_reach_no_file(daemon: Daemon) -> None:
    for name in ("..%2F..%2Fetc", "%2e%2e", "x%00y", "A" * 300, "%FF"):
        for method, target in (
            ("GET", f"/images/{name}"),
            ("DELETE", f"/images/{name}"),
            ("GET", f"/tasks/{name}/diff"),
        ):
            status, answer = request(daemon, method, target, b"")
            assert status in (400, 404), (method, target, status, answer)


def test_no_daemon_and_no_permission(daemon: Daemon, tmp_path: Path) -> None:
    missing = {"HUTCH_SOCKET": str(tmp_path / "none.sock"), "PATH": "/usr/bin:/bin"}
    for arguments in (["run", "--", "true"], ["task", "ls"]):
        done = subprocess.run([HUTCH, *arguments], capture_output=True, timeout=60, check=False, env=missing)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"hutch serve" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    daemon.directory.chmod(0o755)
    try:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c"]
        code = "import socket; socket.socket(socket.AF_UNIX).connect('" + str(daemon.socket) + "')"
        done = subprocess.run([*nobody, f'/usr/bin/python3 -c "{code}"'], capture_output=True, timeout=60, check=False)
    finally:
        daemon.directory.chmod(0o700)
    assert b"PermissionError" in done.stderr


def test_a_ref_of_no_repository(daemon: Daemon) -> None:
    with pytest.raises(ApiError, match="ref") as caught:
        tasks.submit(daemon, "true", ref="main")
    assert caught.value.status == 400
