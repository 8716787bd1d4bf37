"""`hutch task …`, `image …`, `gc`, `doctor`, `completion` as processes, for people and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandbox.shapes import TaskSpec
from tests.unit.cli.conftest import Server, wait_until


def finished(server: Server, *command: str) -> str:
    """The id of a task that has ended."""
    return str(json.loads(server.hutch("run", "--json", "--", *command).stdout)["id"])


def test_ls(server: Server, running_task: str) -> None:
    done = server.hutch("task", "ls")
    header, newest, *_ = done.stdout.decode().splitlines()
    assert header.split() == ["ID", "STATE", "AGE", "REPO", "COMMAND", "TOOK"]
    assert newest.startswith(f"{running_task}  running  ")
    assert "  sleep 600  " in newest
    tasks = json.loads(server.hutch("task", "ls", "--json").stdout)["tasks"]
    assert running_task in [task["id"] for task in tasks]


def test_show(server: Server) -> None:
    task = finished(server, "sh", "-c", "exit 3")
    shown = server.hutch("task", "show", task[:6]).stdout.decode()
    assert f"id:          {task}\n" in shown
    assert "state:       failed, exit code 3\n" in shown
    assert "command:     sh -c 'exit 3'\n" in shown
    assert "diff:        no changes\n" in shown
    assert json.loads(server.hutch("task", "show", "--json", task).stdout)["id"] == task


def test_names_can_not_forge_lines(server: Server) -> None:
    task = finished(server, "true", "a\nstate: forged\x1b[2J")
    for arguments in (["task", "show", task], ["task", "ls"]):
        shown = server.hutch(*arguments).stdout
        assert b"\nstate: forged" not in shown
        assert b"\x1b" not in shown


def test_logs_look_like_the_run(server: Server) -> None:
    task = finished(server, "sh", "-c", "echo out; echo err >&2")
    for follow in ([], ["-f"]):
        done = server.hutch("task", "logs", *follow, task)
        assert done.returncode == 0
        assert done.stdout == b"out\n"
        assert b"== agent\nerr\n== agent: done" in done.stderr
        assert f"== task {task} succeeded".encode() in done.stderr


def test_logs_of_a_running_task_end_unless_followed(server: Server, running_task: str) -> None:
    done = server.hutch("task", "logs", running_task)
    assert done.returncode == 0
    assert b"== agent\n" in done.stderr


def test_logs_as_json_are_the_events(server: Server) -> None:
    task = finished(server, "echo", "x")
    events = [json.loads(line) for line in server.hutch("task", "logs", "--json", task).stdout.splitlines()]
    assert events[-1]["type"] == "end"
    assert {"type": "output", "phase": "agent", "stream": "stdout", "data": "eAo="} in events


def test_diff_is_the_patchs_bytes(server: Server) -> None:
    task = finished(server, "sh", "-c", r"printf 'caf\351\n' > latin1")
    done = server.hutch("task", "diff", task)
    assert done.returncode == 0
    assert done.stdout.endswith(b"+caf\xe9\n")
    assert "patch_base64" in json.loads(server.hutch("task", "diff", "--json", task).stdout)
    task = finished(server, "sh", "-c", "echo é > utf8")
    assert "+é\n" in json.loads(server.hutch("task", "diff", "--json", task).stdout)["patch"]


def test_cancel(server: Server) -> None:
    task = server.hutch("run", "-d", "--", "sleep", "600").stdout.decode().strip()
    wait_until(lambda: server.client.task(task)["state"] == "running")
    done = server.hutch("task", "cancel", task)
    assert (done.returncode, done.stdout) == (0, f"cancelling {task}\n".encode())
    wait_until(lambda: server.client.task(task)["state"] == "cancelled")


def test_rm_removes_what_it_can_and_tells_the_rest(server: Server, running_task: str) -> None:
    task = finished(server, "true")
    done = server.hutch("task", "rm", "--json", task, running_task, "nosuchtask")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["removed"] == [task]
    assert len(found["errors"]) == 2
    sentences = done.stderr.decode().splitlines()
    assert sentences[0] == (
        f"hutch: task {running_task} is running (cancel it first: hutch task cancel {running_task})"
    )
    assert sentences[1] == "hutch: no task has the id nosuchtask (see: hutch task ls)"
    assert server.hutch("task", "show", task).returncode == 1


def test_an_ambiguous_prefix(server: Server, running_task: str) -> None:
    spec: TaskSpec = {"image": "base", "command": ["true"], "env": {}}
    ids = [server.client.create_task(spec)["id"] for _ in range(17)]  # more than there are first letters
    first = next(letter for letter in "0123456789abcdef" if sum(one.startswith(letter) for one in ids) > 1)
    done = server.hutch("task", "show", first)
    assert done.returncode == 1
    assert b"begins more than one task's id" in done.stderr


def test_image_build_shows_progress_and_the_image(server: Server) -> None:
    done = server.hutch("image", "build", "base", "--name", "built")
    assert done.returncode == 0
    assert done.stderr == b"-- downloading packages\n"
    assert done.stdout == b"image built, 1000 B\n"
    assert json.loads(server.hutch("image", "build", "base", "--json").stdout)["name"] == "base"


def test_image_build_that_fails(server: Server) -> None:
    done = server.hutch("image", "build", "base", "--name", "broken")
    assert done.returncode == 1
    assert done.stderr.endswith(b"hutch: cannot unpack a package: the disk is full (run: hutch gc)\n")
    done = server.hutch("image", "build", "base", "--name", "silent")
    assert done.returncode == 1
    assert b"went away in the middle of an answer" in done.stderr


@pytest.mark.parametrize("size", [0, 3_000_001])
def test_image_import_streams_the_file(server: Server, tmp_path: Path, size: int) -> None:
    archive = tmp_path / "root é.tar"
    archive.write_bytes(os.urandom(size))
    done = server.hutch("image", "import", str(archive), "--name", "mine")
    assert done.returncode == 0, done.stderr
    shown = json.loads(server.hutch("image", "show", "--json", "mine").stdout)
    assert shown["size"] == size
    assert shown["source"] == "root ?.tar"
    assert b"mine  " in server.hutch("image", "ls").stdout
    assert b"source:      root ?.tar\n" in server.hutch("image", "show", "mine").stdout
    assert server.hutch("image", "rm", "mine").returncode == 0
    assert server.hutch("image", "show", "mine").returncode == 1


@pytest.mark.parametrize("command", [("import", "-", "--name", "some"), ("pull", "registry.example/some:1")])
def test_an_image_s_entrypoint_is_told_and_can_be_left_out(server: Server, command: tuple[str, ...]) -> None:
    done = server.hutch("image", *command, input=b"x")
    assert b"image some, 1 B, whose entrypoint starts what runs in it: tini '--" in done.stdout
    assert b"\x1b" not in done.stdout
    assert b"entrypoint:  tini '--" in server.hutch("image", "show", "some").stdout
    assert server.hutch("image", *command, "--no-entrypoint", input=b"x").stdout == b"image some, 1 B\n"
    assert b"entrypoint:  none\n" in server.hutch("image", "show", "some").stdout


def test_image_import_from_a_pipe(server: Server) -> None:
    done = server.hutch("image", "import", "-", "--name", "piped", "--json", input=b"x" * 100_000)
    assert json.loads(done.stdout)["size"] == 100_000


def test_image_import_refused_in_the_middle(server: Server, tmp_path: Path) -> None:
    archive = tmp_path / "big.tar"
    archive.write_bytes(b"x" * 20_000_000)
    done = server.hutch("image", "import", str(archive), "--name", "refused")
    assert done.returncode == 1
    assert done.stderr.endswith(b"hutch: the disk has no room for that archive (run: hutch gc)\n")


@pytest.mark.parametrize(("name", "reason"), [("none.tar", "No such file or directory"), (".", "Is a directory")])
def test_image_import_of_no_file(server: Server, tmp_path: Path, name: str, reason: str) -> None:
    done = server.hutch("image", "import", str(tmp_path / name), "--name", "x")
    assert done.returncode == 1
    assert f": {reason} (give the path of a tar file)".encode() in done.stderr


def test_gc_says_what_it_freed(server: Server) -> None:
    assert server.hutch("gc").stdout == b"freed 5.0 MiB: 3 snapshots, 1 layer\n"
    assert json.loads(server.hutch("gc", "--json").stdout)["bytes"] == 5 << 20


def test_completion_scripts(server: Server) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = server.hutch("completion", shell)
        assert b"_HUTCH_COMPLETE" in done.stdout
        assert "_HUTCH_COMPLETE" in json.loads(server.hutch("completion", shell, "--json").stdout)["script"]


def test_completion_of_task_ids(server: Server, running_task: str) -> None:
    words = {"_HUTCH_COMPLETE": "bash_complete", "COMP_WORDS": f"hutch exec {running_task[:5]}", "COMP_CWORD": "2"}
    assert running_task.encode() in server.hutch(env={**server.environ(), **words}).stdout
    nobody = {**server.environ(), **words, "HUTCH_SOCKET": "/dev/null"}
    done = server.hutch(env=nobody)
    assert (done.stdout.strip(), done.stderr) == (b"", b"")


def test_help_of_everything(server: Server) -> None:
    for arguments in ([], ["--help"], ["task"], ["image"]):
        done = server.hutch(*arguments)
        assert done.returncode == 0
        assert done.stdout.startswith(b"Usage: hutch")
    assert server.hutch("--version").stdout.startswith(b"hutch 0.")


def test_unknown_words(server: Server) -> None:
    for arguments in (["rnu"], ["task", "list"]):
        done = server.hutch(*arguments)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
