"""`hutch exec` as a process: streams, input, exit codes, signals; what it leaves behind is nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.conftest import HUTCH, LIMIT, Server, wait_until


@pytest.mark.parametrize("form", [["exec"], ["exec", "--login"]], ids=["direct", "through click"])
def test_streams_and_exit_code(server: Server, running_task: str, form: list[str]) -> None:
    done = server.hutch(*form, running_task, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_options_of_the_command_are_its_own(server: Server, running_task: str) -> None:
    for form in (["--", "echo", "--json", "-t"], ["echo", "--json", "-t"], ["--", "echo", "--json", "--", "-t"]):
        expected = " ".join(word for word in form[form.index("echo") + 1 :]).encode() + b"\n"
        assert server.hutch("exec", running_task, *form).stdout == expected
        assert server.hutch("exec", "-n", running_task, *form).stdout == expected


def test_a_prefix_of_the_id_is_enough(server: Server, running_task: str) -> None:
    assert server.hutch("exec", running_task[:8], "--", "true").returncode == 0


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_input_is_passed_on_byte_for_byte(server: Server, running_task: str, size: int) -> None:
    data = os.urandom(size)
    done = server.hutch("exec", running_task, "--", "cat", input=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_a_file_is_input_too(server: Server, running_task: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"from a file")
    with (tmp_path / "input").open("rb") as file:
        assert server.hutch("exec", running_task, "--", "cat", stdin=file).stdout == b"from a file"


def test_no_input_without_data(server: Server, running_task: str) -> None:
    loop = f"printf 'a\\nb\\n' | while read x; do {' '.join(map(_quoted, HUTCH))} exec -n {running_task} -- cat; echo $x; done"
    done = subprocess.run(["sh", "-c", loop], env=server.environ(), capture_output=True, timeout=LIMIT, check=True)
    assert done.stdout == b"a\nb\n"
    assert server.hutch("exec", running_task, "--", "cat").stdout == b""  # /dev/null


def _quoted(word: str) -> str:
    return f"'{word}'"


def test_input_that_nobody_reads_does_not_keep_it(server: Server, running_task: str) -> None:
    process = server.start("exec", running_task, "--", "true", stdin=subprocess.PIPE)
    assert process.wait(LIMIT) == 0  # with its input still open
    process.communicate(timeout=LIMIT)
    done = server.hutch("exec", running_task, "--", "true", input=b"x" * 3_000_000)
    assert (done.returncode, done.stderr) == (0, b"")


def test_json(server: Server, running_task: str) -> None:
    done = server.hutch("exec", "--json", running_task, "--", "sh", "-c", "echo out; exit 3")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["exit_code"] == 3
    assert found["seconds"] >= 0
    assert done.stderr == b"out\n"


@pytest.mark.parametrize("form", [["exec"], ["exec", "-n"]], ids=["direct", "through click"])
def test_failures_are_one_sentence(server: Server, running_task: str, form: list[str]) -> None:
    done = server.hutch(*form, "nosuchtask", "--", "true")
    assert (done.returncode, done.stderr) == (1, b"hutch: no task has the id nosuchtask (see: hutch task ls)\n")
    done = server.hutch(*form, running_task, "--", "nosuchprogram")
    assert done.returncode == 1
    assert done.stderr.startswith(b"hutch: there is no program 'nosuchprogram'")
    assert server.hutch(*form, running_task, "--").returncode == 2


def test_death_by_signal(server: Server, running_task: str) -> None:
    assert server.hutch("exec", running_task, "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_ctrl_c_goes_to_the_command_first(server: Server, running_task: str) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    process = server.start("exec", running_task, "--", "sh", "-c", script)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (9, b"caught\n", b"")


def test_the_second_ctrl_c_leaves_and_kills(server: Server, running_task: str, tmp_path: Path) -> None:
    script = f"trap 'echo ignored' INT; echo $$ > {tmp_path}/pid; echo ready; while :; do sleep 0.05; done"
    process = server.start("exec", running_task, "--", "sh", "-c", script)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"ignored\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert b"Traceback" not in err
    inner = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{inner}/stat").exists())  # the closed connection was the command's end


def test_a_reader_that_goes_away(server: Server, running_task: str) -> None:
    command = f"{' '.join(map(_quoted, HUTCH))} exec {running_task} -- yes | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        env=server.environ(),
        capture_output=True,
        timeout=LIMIT,
        check=True,
    )
    assert done.stdout == b"y\n141\n"
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_taken_for_the_socket(server: Server, running_task: str, closed: str) -> None:
    command = f"{' '.join(map(_quoted, HUTCH))} exec {running_task} -- sh -c 'echo out; echo err >&2; exit 5' {closed}"
    done = subprocess.run(["sh", "-c", command], env=server.environ(), capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 5
    assert done.stdout == (b"" if ">&-" in closed.split() else b"out\n")


def test_ten_megabytes(server: Server, running_task: str) -> None:
    done = server.hutch("exec", running_task, "--", "sh", "-c", "head -c 10000000 /dev/zero")
    assert len(done.stdout) == 10_000_000
