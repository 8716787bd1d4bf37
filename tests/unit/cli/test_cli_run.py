"""`hutch run` as a process: streams, exit codes, JSON, cancelling, and a daemon or a reader that goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import LIMIT, Server, wait_until


def test_streams_are_kept_apart(server: Server) -> None:
    done = server.hutch(
        "run", "--setup", "echo prep; echo warn >&2", "--", "sh", "-c", "echo out; echo err >&2; exit 3"
    )
    assert done.returncode == 3
    assert done.stdout == b"out\n"
    lines = done.stderr.decode().splitlines()
    for wanted in ("== setup", "prep", "warn", "== agent", "err", "-- cache miss: first run of this environment"):
        assert wanted in lines
    assert lines.index("== setup") < lines.index("prep") < lines.index("== agent") < lines.index("err")
    assert any(line.startswith("== setup: done in ") for line in lines)
    assert any(line.startswith("== agent: exit code 3 after ") for line in lines)
    assert b"\x1b" not in done.stderr


def test_output_is_passed_on_byte_for_byte(server: Server) -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 20000)"
    done = server.hutch("run", "--", sys.executable, "-c", program)
    assert done.returncode == 0
    assert done.stdout == bytes(range(256)) * 20000


def test_headings_begin_on_a_line_of_their_own(server: Server) -> None:
    done = server.hutch("run", "--", "sh", "-c", "printf half >&2")
    assert b"half\n== agent: done" in done.stderr


def test_output_comes_at_once(server: Server) -> None:
    process = server.start("run", "--", "sh", "-c", "echo first; sleep 600")
    assert process.stdout
    assert process.stdout.readline() == b"first\n"  # with the command still running
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)


def test_json_stands_alone_on_stdout(server: Server) -> None:
    arguments = ("--json", "--var", "DENIED=example.com", "--", "sh", "-c", "echo out; echo 1 > new; exit 4")
    done = server.hutch("run", *arguments)
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert found["state"] == "failed"
    assert found["exit_code"] == 4
    assert found["cache"] == {"hit": False, "key": "k1", "reason": "first run of this environment"}
    assert found["diff"] == {"files": 1, "insertions": 1, "deletions": 0}
    assert found["network"]["denied"] == [{"name": "example.com", "port": 443, "count": 2, "rule": "example.com"}]
    assert [phase["name"] for phase in found["phases"]] == ["agent"]
    assert set(found) == {"id", "state", "exit_code", "commit", "cache", "phases", "diff", "network", "error"}
    assert b"out\n" in done.stderr


def test_refusals_are_told_once_when_they_happen_and_at_the_end(server: Server) -> None:
    done = server.hutch("run", "--var", "DENIED=example.com", "--", "true")
    lines = done.stderr.decode().splitlines()
    assert lines.count("-- denied: example.com:443 (no rule allows it)") == 1
    assert "   denied: example.com:443, 2 times; to allow it: --allow example.com" in lines


def test_a_failed_setup_is_no_exit_code_of_the_command(server: Server) -> None:
    done = server.hutch("run", "--setup", "echo log; exit 7", "--", "true")
    assert done.returncode == 1
    assert b"log\n" in done.stderr
    assert b"   error: the setup script failed (mend the script)\n" in done.stderr


def test_time_limit(server: Server) -> None:
    done = server.hutch("run", "--timeout", "1", "--", "sleep", "600")
    assert done.returncode == 124
    assert b"ran out of time" in done.stderr


def test_the_request_has_what_was_typed(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("true # from the file\n")
    options = "--repo . --ref v1 --maintenance true --var A=b=c -e E= --secret S --timeout 1m"
    network = (
        "--allow example.com --allow a.example --deny b.a.example --methods get,HEAD --preset common-dependencies "
        "--setup-access limited --setup-allow tcp://db.example:22 --setup-methods any"
    )
    limits = "--memory 2G --cpus 1.5 --pids 64"
    command = ["--", "true", "--json", "-x"]
    done = server.hutch(
        "run",
        "-d",
        *options.split(),
        *network.split(),
        *limits.split(),
        "--setup",
        f"@{script}",
        *command,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert done.stderr == b""
    task = server.client._json("GET", f"/tasks/{done.stdout.decode().strip()}")
    assert task["spec"] == {
        "repo": str(tmp_path),
        "ref": "v1",
        "setup": "true # from the file\n",
        "maintenance": "true",
        "env": {"A": "b=c", "E": ""},
        "secrets": ["S"],
        "network": {
            "agent": {
                "preset": "common-dependencies",
                "rules": ["example.com", "a.example", "deny b.a.example"],
                "methods": ["GET", "HEAD"],
            },
            "setup": {"access": "limited", "rules": ["tcp://db.example:22"], "methods": None},
        },
        "timeout": 60,
        "command": ["true", "--json", "-x"],
        "limits": {"memory": 2 << 30, "cpus": 1.5, "pids": 64},
    }


def test_no_setup_is_an_empty_script(server: Server) -> None:
    done = server.hutch("run", "--detach", "--no-setup", "--", "true")
    assert server.client._json("GET", f"/tasks/{done.stdout.decode().strip()}")["spec"]["setup"] == ""


def test_defaults_of_the_request(server: Server, tmp_path: Path) -> None:
    done = server.hutch("run", "--detach", "--json", "true", cwd=tmp_path)
    task = server.client._json("GET", f"/tasks/{json.loads(done.stdout)['id']}")
    assert task["spec"] == {"command": ["true"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--"], "hutch: Missing argument 'COMMAND...' (see: hutch run --help)"),
        (["--timeout", "soon", "--", "true"], "'soon' is no duration: write 90, 90s, 15m, 2h or 1h30m"),
        (["--memory", "lots", "--", "true"], "'lots' is no size"),
        (["--var", "A", "--", "true"], "'A' is no variable: write NAME=VALUE"),
        (["--env", "A=b", "--", "true"], "'A=b' is no environment's name: for a variable write --var A=b"),
        (["--cache-lifetime", "never", "--", "true"], "'never' is no duration"),
        (["--setup", "@no/such", "--", "true"], "cannot read the script file 'no/such': No such file"),
        (["--allow", "deny a", "--", "true"], "'deny a' denies: write it without that word behind --deny"),
        (["--methods", "GET;", "--", "true"], "'GET;' are no methods"),
        (["--setup-preset", "all", "--", "true"], "'all' is not one of"),
        (["--cpus", "0", "--", "true"], "0.0 is not in the range"),
        (["--no-setup", "--setup", "x", "--", "true"], "--setup and --no-setup exclude each other"),
        (["--access", "all", "--", "true"], "'all' is not one of"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_one_sentence(server: Server, arguments: list[str], sentence: str) -> None:
    done = server.hutch("run", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    error = done.stderr.decode()
    assert error.count("\n") == 1
    assert error.startswith("hutch: ")
    assert sentence in error


def test_refused_by_the_daemon(server: Server) -> None:
    done = server.hutch("run", "--image", "none", "--json", "--", "true")
    assert done.returncode == 1
    assert done.stderr == b"hutch: there is no image 'none' (see: hutch image ls)\n"
    assert json.loads(done.stdout) == {
        "error": {"message": "there is no image 'none'", "remedy": "see: hutch image ls"}
    }


def started(server: Server, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """A run whose command has printed its first line, and its task's id."""
    process = server.start("run", *arguments)
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == b"ready\n"
    return process, process.stderr.readline().decode().split()[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_cancels_and_waits_for_the_end(server: Server, number: signal.Signals) -> None:
    process, task = started(
        server, "--", "sh", "-c", "trap 'echo unwound; exit' TERM; echo ready; while :; do sleep 0.05; done"
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert out == b"unwound\n"  # what it said after the signal still came through
    assert f"== task {task} was cancelled".encode() in err
    assert server.client.task(task)["state"] == "cancelled"


def test_the_second_signal_leaves_at_once(server: Server) -> None:
    process, task = started(server, "--", "sh", "-c", "trap '' TERM; echo ready; sleep 30 & wait; wait")
    process.send_signal(signal.SIGINT)
    assert process.stderr
    while b"Ctrl-C again" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert f"hutch task logs -f {task}".encode() in err
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_ends_it_quietly(server: Server) -> None:
    process = server.start("run", "--", "sh", "-c", "yes | head -c 3000000")
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(LIMIT) == 141
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_daemon_that_dies_is_told(server: Server, tmp_path: Path) -> None:
    program = Path(__file__).with_name("contract_server.py")
    path = str(tmp_path / "s.sock")
    daemon = subprocess.Popen([sys.executable, str(program), path, str(tmp_path)])
    own = Server(path, tmp_path)
    try:
        wait_until(lambda: own.hutch("task", "ls").returncode == 0)
        process, _ = started(own, "--", "sh", "-c", "echo ready; exec sleep 600")
        command = int(subprocess.check_output(["pgrep", "-P", str(daemon.pid)], timeout=LIMIT))
        daemon.kill()
        daemon.wait(LIMIT)
        _, err = process.communicate(timeout=LIMIT)
        os.kill(command, signal.SIGKILL)
    finally:
        daemon.kill()
        daemon.wait(LIMIT)
    assert process.returncode == 1
    assert b"went away in the middle of an answer" in err
    assert b"Traceback" not in err


def test_no_daemon(server: Server, tmp_path: Path) -> None:
    environ = {**server.environ(), "HUTCH_SOCKET": f"{tmp_path}/none.sock"}
    done = server.hutch("run", "--", "true", env=environ)
    assert done.returncode == 1
    expected = f"hutch: the daemon is not running: nothing listens on {tmp_path}/none.sock (start it: hutch serve)\n"
    assert done.stderr.decode() == expected


def test_the_socket_option_wins(server: Server) -> None:
    environ = {**server.environ(), "HUTCH_SOCKET": "/dev/null"}
    assert server.hutch("--socket", server.socket, "run", "--", "true", env=environ).returncode == 0
