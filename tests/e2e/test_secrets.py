"""Brokered credentials end to end: the server gets the value, and it is nowhere else: not inside, on disk, in an answer or a log.

What the server has received is told by digests, which the filter can't mask; what must not be there is looked for in all of it.
"""

from __future__ import annotations

import base64
import json
import secrets
import string
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import ApiError
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.internet import Internet, internet
from tests.support.mirror import GIT_TOKEN, SPELLINGS, digest

ALPHABET = string.ascii_letters + string.digits


def new_value() -> str:
    return "ghp_" + "".join(secrets.choice(ALPHABET) for _ in range(36))


def forms(value: str) -> list[bytes]:
    """What would give the value away, whatever stands around it."""
    raw = value.encode()
    cores = [base64.b64encode(bytes(count) + raw)[count and count + 1 : -4] for count in range(3)]
    return [raw, raw[4:], raw.hex().encode(), *cores]


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with internet() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(state: Path, base_image: str, net: Internet) -> Iterator[Daemon]:
    with Daemon(state, net.environment, net.options) as daemon:
        yield daemon
        for one in daemon.client.secrets():
            daemon.client.remove_secret(one["name"])


@pytest.fixture(scope="module")
def older(daemon: Daemon, state: Path) -> set[str]:
    """The layers from before there were secrets."""
    return {layer.name for layer in (state / "layers").iterdir()}


@pytest.fixture(scope="module")
def values(daemon: Daemon, older: set[str]) -> dict[str, str]:
    """The secrets of these tests: by name, what nobody may see."""
    found = {name: new_value() for name in ("ANY", "BEARER", "EVERYWHERE", "PATH_ONLY", "SETUP_ONLY")} | {
        "GIT": GIT_TOKEN
    }
    put(daemon, "ANY", found["ANY"], "--for", "up.test")
    put(
        daemon,
        "BEARER",
        found["BEARER"],
        "--for",
        "up.test",
        "--header",
        "Authorization: Bearer {}",
        "--phase",
        "agent",
    )
    put(daemon, "EVERYWHERE", found["EVERYWHERE"], "--for", "up.test", "--query", "--body")
    put(daemon, "PATH_ONLY", found["PATH_ONLY"], "--for", "up.test/mirror/mine/")
    put(daemon, "SETUP_ONLY", found["SETUP_ONLY"], "--for", "up.test", "--phase", "setup")
    put(daemon, "GIT", found["GIT"], "--for", "up.test/private/")
    return found


def put(daemon: Daemon, name: str, value: str, *options: str) -> None:
    done = daemon.hutch("secret", "set", name, *options, input=value.encode())
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def task(daemon: Daemon, values: dict[str, str]) -> Iterator[str]:
    setup = f'env; curl -sS https://up.test/mirror -H "x-key: $SETUP_ONLY" # {secrets.token_hex(8)}'
    network = {"agent": {"access": "limited", "rules": ["up.test", "up.test:8443", "other.test"]}}
    with tasks.running(daemon, "env", setup=setup, network=network, secrets=sorted(values)) as task:
        yield task


def sh(daemon: Daemon, task: str, script: str) -> tasks.Done:
    return tasks.execute(daemon, task, "timeout", "60", "bash", "-euc", script)


def asked(daemon: Daemon, task: str, curl: str) -> dict[str, Any]:
    """What the mirror says that it has received."""
    done = sh(daemon, task, f"curl -sS --fail-with-body {curl}")
    assert done.code == 0, (done.stdout, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_server_gets_the_value_and_the_sandbox_its_placeholder(
    daemon: Daemon, task: str, values: dict[str, str]
) -> None:
    holder = sh(daemon, task, 'printf %s "$BEARER"').text
    assert len(holder) == len(values["BEARER"])
    assert holder.startswith("ghp_")
    assert holder != values["BEARER"]
    told = asked(daemon, task, '-H "authorization: Bearer $BEARER" -H "x-key: $ANY" https://up.test/mirror')
    assert told["digests"]["authorization"] == digest(f"Bearer {values['BEARER']}")
    assert told["digests"]["x-key"] == digest(values["ANY"])
    assert told["sent"]["authorization"] == f"Bearer {holder}"


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
@pytest.mark.parametrize("kind", [*SPELLINGS, "drip"])
def test_an_answer_that_echoes_it_is_masked(
    daemon: Daemon, task: str, values: dict[str, str], kind: str, http: str
) -> None:
    script = f'curl -sS -i {http} -u "user:$ANY" -H "x-key: $ANY" "https://up.test/mirror?as={kind}"'
    done = sh(daemon, task, script)
    assert b" 200" in done.stdout.splitlines()[0], done.stdout
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    assert len(body) == length > 100
    assert not any(form in done.stdout for form in forms(values["ANY"]))


@pytest.mark.parametrize(
    ("name", "curl"),
    [
        ("ANY", '-H "x-key: {}" https://other.test/mirror'),
        ("ANY", '-H "x-key: {}" https://www.up.test/mirror'),
        ("ANY", '-H "x-key: {}" http://up.test/mirror'),
        ("ANY", '-A "{}" https://up.test/mirror'),
        ("ANY", '"https://up.test/mirror?key={}"'),
        ("ANY", '--data "{}" https://up.test/mirror'),
        ("BEARER", '-H "x-key: {}" https://up.test/mirror'),
        ("BEARER", '-H "authorization: token {}" https://up.test/mirror'),
        ("PATH_ONLY", '-H "x-key: {}" https://up.test/mirror/other'),
        ("PATH_ONLY", '--path-as-is -H "x-key: {}" https://up.test/mirror/mine/%2e%2e/other'),
    ],
)
def test_the_placeholder_is_all_that_goes_anywhere_else(
    daemon: Daemon, task: str, values: dict[str, str], name: str, curl: str
) -> None:
    holder = sh(daemon, task, f'printf %s "${name}"').text
    told = asked(daemon, task, curl.replace("{}", f"${name}"))
    assert holder in json.dumps(told["sent"])
    assert digest(values[name]) not in told["digests"].values()


def test_query_and_body_where_asked(daemon: Daemon, task: str, values: dict[str, str]) -> None:
    told = asked(daemon, task, '--data "a=$EVERYWHERE&b=c" "https://up.test/mirror?key=$EVERYWHERE"')
    assert told["digests"]["query"] == digest(f"key={values['EVERYWHERE']}")
    assert told["digests"]["body"] == digest(f"a={values['EVERYWHERE']}&b=c")
    assert asked(daemon, task, '-H "x-key: $PATH_ONLY" https://up.test/mirror/mine/x')["digests"]["x-key"] == digest(
        values["PATH_ONLY"]
    )


def test_what_is_compressed_all_the_same_is_refused(daemon: Daemon, task: str) -> None:
    done = sh(daemon, task, 'curl -sS -i --compressed -H "x-key: $ANY" "https://up.test/mirror?as=gzip"')
    assert b" 502" in done.stdout.splitlines()[0]
    assert b"compressed" in done.stdout


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
@pytest.mark.parametrize("way", ["line", "status", "version", "length", "field", "cut"])
def test_an_answer_that_is_no_http_is_not_quoted(
    daemon: Daemon, task: str, values: dict[str, str], way: str, http: str
) -> None:
    done = sh(daemon, task, f'curl -sS -i {http} -H "x-key: $ANY" https://up.test:8443/{way}')
    assert b" 502" in done.stdout.splitlines()[0], done.stdout
    assert not any(form in done.stdout for form in forms(values["ANY"]))
    assert values["ANY"] not in repr(tasks.events(daemon, task)[-1])


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
def test_hints_before_the_answer_are_not_taken_for_it(daemon: Daemon, task: str, http: str) -> None:
    done = sh(daemon, task, f'curl -sS -m 20 {http} -w "%{{http_code}}" -H "x-key: $ANY" https://up.test:8443/early')
    assert done.text == "ok200", done


@pytest.mark.parametrize("case", ["lower", "upper"])
def test_no_case_of_it_comes_back(daemon: Daemon, task: str, values: dict[str, str], case: str) -> None:
    done = sh(daemon, task, f'curl -sS -H "x-key: $ANY" "https://up.test/mirror?as={case}"')
    assert getattr(values["ANY"], case)().encode() not in done.stdout
    assert b"x-key" in done.stdout.lower()


FAREWELL = """
import os, socket, ssl
connection = socket.create_connection(("up.test", 443))
connection = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]).wrap_socket(connection, server_hostname="up.test")
fields = {"Host": "up.test", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
fields |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Authorization": os.environ["ANY"]}
connection.sendall(("GET /farewell HTTP/1.1\\r\\n" + "".join(f"{n}: {v}\\r\\n" for n, v in fields.items()) + "\\r\\n").encode())
while data := connection.recv(4096):
    os.write(1, data)
"""


def test_a_websocket_that_echoes_it_is_masked_to_its_last_frame(
    daemon: Daemon, task: str, values: dict[str, str]
) -> None:
    holder = sh(daemon, task, 'printf %s "$ANY"').stdout
    done = tasks.execute(daemon, task, "timeout", "30", "python3", "-c", FAREWELL)
    assert b"you are " + holder in done.stdout, (done.stdout, done.stderr)
    assert done.stdout.count(holder) == 2
    assert values["ANY"].encode() not in done.stdout


def test_a_private_repository_is_cloned_with_it(daemon: Daemon, task: str) -> None:
    clone = "git clone -q https://{}up.test/private/project.git"
    assert sh(daemon, task, f"cd /tmp && GIT_TERMINAL_PROMPT=0 {clone.format('')}").code != 0
    done = sh(daemon, task, f"cd /tmp && {clone.format('x:$GIT@')} cloned && cat cloned/file.txt")
    assert done.stdout == b"from git\n", done.stderr


def test_a_phase_that_it_is_not_for_has_no_placeholder(daemon: Daemon, task: str) -> None:
    setup, agent = (tasks.output(daemon, task, phase).decode() for phase in ("setup", "agent"))
    assert {"ANY", "SETUP_ONLY"} <= {line.partition("=")[0] for line in setup.splitlines()}
    assert not {"BEARER"} & {line.partition("=")[0] for line in setup.splitlines()}
    assert not {"SETUP_ONLY"} & {line.partition("=")[0] for line in agent.splitlines()}
    assert {"ANY", "BEARER"} <= {line.partition("=")[0] for line in agent.splitlines()}


def test_another_value_is_used_at_once_and_a_removed_one_no_more(daemon: Daemon, task: str) -> None:
    first, second = new_value(), new_value()
    put(daemon, "TURNS", first, "--for", "up.test")
    network = {"agent": {"access": "limited", "rules": ["up.test"]}}
    curl = '-H "x-key: $TURNS" https://up.test/mirror'
    with tasks.running(daemon, network=network, secrets=["TURNS"]) as other:
        assert asked(daemon, other, curl)["digests"]["x-key"] == digest(first)
        assert daemon.hutch("secret", "rotate", "TURNS", input=second.encode()).returncode == 0
        assert asked(daemon, other, curl)["digests"]["x-key"] == digest(second)
        assert daemon.hutch("secret", "rm", "TURNS").returncode == 0
        told = asked(daemon, other, curl)
        assert told["digests"]["x-key"] == digest(sh(daemon, other, 'printf %s "$TURNS"').text)


def test_a_secret_that_is_not_there_is_told_at_once(daemon: Daemon) -> None:
    with pytest.raises(ApiError, match="there is no secret 'NO_SUCH'") as caught:
        tasks.submit(daemon, "true", secrets=["NO_SUCH"])
    assert caught.value.status == 400


def test_the_value_is_nowhere(
    daemon: Daemon, state: Path, older: set[str], task: str, values: dict[str, str]
) -> None:  # fmt: skip
    """Last: everything that the tests above have left. The known part of each value is looked for first, to see that we see."""
    client = daemon.client
    answers = [client.secrets(), client.tasks(), client.task(task), tasks.events(daemon, task)]
    answers += [tasks.output(daemon, task, phase).decode(errors="replace") for phase in ("setup", "agent")]
    seen = {"answers": json.dumps(answers).encode(), "log": daemon.log.encode()}
    seen |= {f"/proc/{pid}": _process(pid) for pid in tasks.descendants(daemon.pid)}
    layers = [layer for layer in (state / "layers").iterdir() if layer.name not in older]
    for top in (*(state / name for name in ("hutch.db", "hutch.db-wal", "keys", "tasks", "git")), *layers):
        found = [top] if top.is_file() else [path for path in top.rglob("*") if _is_text(path)]
        seen |= {str(path): path.read_bytes() for path in found}
    holder = next(one["placeholder"] for one in client.secrets() if one["name"] == "ANY").encode()
    assert any(holder in content for content in seen.values())
    for name, value in values.items():
        for place, content in seen.items():
            assert not any(form in content for form in forms(value)), f"{name} is in {place}"


def _process(pid: int) -> bytes:
    found = b""
    for name in ("environ", "cmdline"):
        with suppress(OSError):
            found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def _is_text(path: Path) -> bool:
    """What tasks may have written: the image's own large files can't hold it."""
    with suppress(OSError):
        return path.is_file() and not path.is_symlink() and path.stat().st_size < 4 << 20
    return False
