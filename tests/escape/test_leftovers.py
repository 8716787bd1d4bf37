"""What a phase leaves for the next one, and a task for the host: files, processes, names, a repository that is a trap.

The host must read it as data. A trap that went off on the host leaves its mark in the host's /tmp, which no sandbox can reach.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import repos, tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

# Programs that git runs when it is asked about a work tree: wherever one runs, a mark is left there.
TRAP = """
printf '#!/bin/sh\\ntouch /tmp/{mark}\\n' >/trap; chmod 755 /trap
git config core.fsmonitor /trap; git config core.hooksPath /traps; git config core.sshCommand /trap; git config core.editor /trap
git config core.pager /trap; git config diff.external /trap; git config core.alternateRefsCommand /trap
for use in clean smudge process; do git config filter.trap.$use /trap; done
git config diff.trap.textconv /trap; git config diff.trap.command /trap; git config merge.trap.driver /trap
git config gpg.program /trap; git config commit.gpgSign true; git config credential.helper /trap
git config uploadpack.packObjectsHook /trap
mkdir -p /traps; for hook in post-checkout post-index-change pre-commit reference-transaction post-merge; do
  cp /trap /traps/$hook; cp /trap .git/hooks/$hook; done
printf '* filter=trap diff=trap merge=trap\\n' >.git/info/attributes
"""
DAMAGE = """
touch .git/index.lock .git/HEAD.lock; echo /proc/self/root >.git/objects/info/alternates
ln -s /proc/1/environ .git/refs/heads/evil; rm .git/index; mkfifo .git/index
"""
HOSTILE_TREE = r"""
import os, socket
os.chdir("/workspace/" + os.listdir("/workspace")[0])
open("changed", "w").write("by the agent\n")
os.remove("README"); os.symlink("/etc/shadow", "README")
os.symlink("/", "root"); os.symlink("..", "up"); os.mkfifo("pipe")
os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 1 << 40)
socket.socket(socket.AF_UNIX).bind("socket")
for name in (b"new\nline", b"\x1b[2Jescape", "\u202ebidi".encode(), b"\xff", b"-rf", b".wh.changed", b"$(reboot)", b"x" * 255):
    open(name, "w").write("x")
for name in (b".GIT", b"git~1", ".g\u200cit".encode()):
    os.mkdir(name); open(name + b"/config", "w").write("[core]\n\tfsmonitor = /trap\n")
os.makedirs("nested/.git"); open("nested/.git/config", "w").write("[core]\n\tfsmonitor = /trap\n")
open(".gitattributes", "w").write("* filter=trap working-tree-encoding=UTF-16 eol=crlf\n")
open(".gitmodules", "w").write('[submodule "x"]\n\tpath = x\n\turl = ext::sh -c touch% /tmp/x\n')
os.mkdir("many")
for number in range(3000): os.close(os.open(f"many/{number}", os.O_CREAT))
os.mkdir("deep"); os.chdir("deep")
for _ in range(5000): os.mkdir("d"); os.chdir("d")
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A name in /tmp that appears where a trap goes off."""
    name = f"hutch-trap-{uuid.uuid4().hex}"
    yield name
    Path("/tmp", name).unlink(missing_ok=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repos.make(tmp_path / "project", {"README": "hello\n", "changed": "as it was\n", "dir/file": "x\n"})


@pytest.mark.holds("a repository that is a trap", "git runs inside, with its own settings; results are read as data")
def test_traps_in_a_repository_go_off_inside_at_most(daemon: Daemon, repo: Path, mark: str) -> None:
    trap = TRAP.format(mark=mark)
    agent = (
        f"git status >/dev/null 2>&1; ls /tmp/{mark} && echo went-off-inside; rm -f .git/index; {trap}echo new >changed"
    )
    done = tasks.run(daemon, *sh(agent), repo=str(repo), setup=f"{trap}{DAMAGE}", seconds=100)
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert b"went-off-inside" not in tasks.output(daemon, done["id"]), "made anew, the repository has no trap any more"
    assert done["diff"]["files"] == 1
    assert not Path("/tmp", mark).exists()


@pytest.mark.holds("a tree that is a trap", "read with descriptors, bounded, without following; names escaped")
def test_a_hostile_tree_becomes_a_result(daemon: Daemon, repo: Path, state: Path) -> None:
    done = tasks.run(daemon, "python3", "-c", HOSTILE_TREE, repo=str(repo), seconds=100)
    assert (done["state"], done["error"]) == ("succeeded", None)
    told = tasks.notices(daemon, done["id"])
    assert all(line.isprintable() for line in told.split("\n"))
    for name in ("pipe", "socket", "sparse", ".GIT", "nested", "deep"):
        assert name in told, name
    diff = daemon.hutch("task", "diff", done["id"]).stdout
    assert b"+by the agent" in diff
    assert b"+/etc/shadow" in diff, "the link itself, as data"
    assert b"root:" not in diff
    directory = state / "tasks" / done["id"]
    tasks.wait_for(lambda: not list(directory.glob("fs*")), "the removal of the tree", 20)


@pytest.mark.holds("what setup leaves running or in memory", "each phase is a sandbox of its own")
def test_nothing_but_files_reaches_the_next_phase(daemon: Daemon) -> None:
    setup = f"""# {uuid.uuid4()}
echo kept >/file; echo x >/dev/shm/left; ipcmk -M 4096 >/dev/null; (exec -a left-running sleep 600) & mkdir /tmp/left
python3 -c 'import socket, time; s = socket.socket(1); s.bind("\\0left"); time.sleep(600)' >/dev/null 2>&1 &
"""
    look = """cat /file; ls /dev/shm; ipcs -m | grep -c 0x; pgrep -f "[l]eft-running|[s]leep 600" | wc -l
        grep -c left /proc/net/unix; ls /run/hutch"""
    done = tasks.run(daemon, *sh(look), setup=setup, seconds=100)
    assert tasks.output(daemon, done["id"]).split() == [b"kept", b"0", b"0", b"0"], tasks.output(daemon, done["id"])


@pytest.mark.holds("walls moved by setup", "mount points opened without following links; an error, no other mode")
@pytest.mark.parametrize(
    "damage", ["mv /run /r; ln -s /etc /run", "mv /run /r; echo x >/run", "rm -rf /workspace; ln -s /etc /workspace",
               "chmod 0 / /run /workspace; chown 1000:1000 /", "rm -rf /etc/passwd /etc/profile.d; mkfifo /etc/passwd"]
)  # fmt: skip
def test_a_snapshot_without_its_mount_points(daemon: Daemon, damage: str) -> None:
    done = tasks.run(
        daemon, *sh("test -e /run/hutch && echo fine"), setup=f"# {uuid.uuid4()}\n{damage} || true", seconds=60
    )
    if done["state"] == "failed":
        assert done["error"]["message"]
    else:
        assert tasks.output(daemon, done["id"]) == b"fine\n"


@pytest.mark.holds("forged log lines", "output is stored as base64; the journal has one writer")
def test_output_cannot_look_like_an_event(daemon: Daemon) -> None:
    line = '{"type":"end","task":{"state":"succeeded","exit_code":0}}'
    done = tasks.run(daemon, *sh(f"printf '\\n%s\\n\\r%s\\n' '{line}' '{line}'; exit 3"))
    found = tasks.events(daemon, done["id"])
    assert [event["type"] for event in found].count("end") == 1
    assert (done["state"], done["exit_code"], found[-1]["task"]["exit_code"]) == ("failed", 3, 3)
