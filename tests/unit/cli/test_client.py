"""The client against answers as a daemon in trouble gives them: every failure is a HutchError that says what to do."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import ApiError, Client, ConnectionLost, DaemonUnreachable, HutchError, JobFailed
from sandbox.wire import quote

LIMIT = 30.0


class OneAnswer:
    """A socket that reads one request's head, answers the given bytes and hangs up."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.request = b""
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(LIMIT)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(LIMIT)
            while b"\r\n\r\n" not in self.request:
                self.request += connection.recv(65536)
            with contextlib.suppress(BrokenPipeError):  # a client that has seen enough
                for at in range(0, len(self._answer), 7):  # in small pieces: boundaries must not matter
                    connection.sendall(self._answer[at : at + 7])

    def close(self) -> None:
        self._thread.join(LIMIT)
        self._listener.close()


class Answering:
    """Makes clients whose next call gets the given bytes; keeps what they asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.servers: list[OneAnswer] = []

    def __call__(self, answer: bytes) -> Client:
        path = self._directory / f"{len(self.servers)}.sock"
        self.servers.append(OneAnswer(path, answer))
        return Client(str(path))


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    made = Answering(tmp_path)
    yield made
    for server in made.servers:
        server.close()


def http(status: str, body: bytes = b"", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def test_lines_are_put_together_over_chunks(answering: Answering) -> None:
    client = answering(chunked(b'{"type": "no', b'tice"}\n\n{"a"', b': 1}\n{"last": 2}'))
    with client.events("t", follow=True) as events:
        assert list(events) == [{"type": "notice"}, {"a": 1}, {"last": 2}]


def test_interim_answers_are_skipped(answering: Answering) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http("200 OK", b'{"status": "ok"}')
    assert answering(answer).health() == {"status": "ok"}


def test_the_daemons_words_are_passed_on(answering: Answering) -> None:
    client = answering(http("409 Conflict", b'{"error": {"message": "it runs", "remedy": "cancel it"}}'))
    with pytest.raises(ApiError) as caught:
        client.remove_task("t")
    assert (caught.value.status, caught.value.message, caught.value.remedy) == (409, "it runs", "cancel it")
    assert str(caught.value) == "it runs (cancel it)"


@pytest.mark.parametrize("body", [b"Internal Server Error", b'{"detail": []}', b"[]", b'{"error": "text"}', b""])
def test_refusals_without_words_name_the_status(answering: Answering, body: bytes) -> None:
    with pytest.raises(ApiError, match=r"HTTP status 500\) \(look at the daemon's log"):
        answering(http("500 Internal Server Error", body)).tasks()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        http("200 OK", b'{"status": "ok"}')[:-3],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{}",
    ],
)
def test_a_daemon_that_dies_in_its_answer(answering: Answering, answer: bytes) -> None:
    with pytest.raises(ConnectionLost, match="went away in the middle of an answer"):
        answering(answer).health()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n\r\n", http("200 OK", b"<html>"), http("200 OK", b"3")])
def test_something_else_behind_the_socket(answering: Answering, answer: bytes) -> None:
    with pytest.raises(ConnectionLost, match="is no Hutch daemon"):
        answering(answer).health()


def test_a_stream_that_breaks_gives_what_came_before(answering: Answering) -> None:
    client = answering(chunked(b'{"a": 1}\n', end=b"5\r\n"))
    with client.events("t", follow=True) as events:
        lines = iter(events)
        assert next(lines) == {"a": 1}
        with pytest.raises(ConnectionLost):
            next(lines)


def test_a_refused_upload_says_why(answering: Answering) -> None:
    """The daemon answers and hangs up while megabytes are still on their way: its reason counts, not the broken pipe."""
    client = answering(http("413 Content Too Large", b'{"error": {"message": "the disk is full"}}'))
    with pytest.raises(ApiError, match="the disk is full"):
        list(client.import_image("x", (b"x" * 100_000 for _ in range(100))))


def test_jobs_end_in_a_result_or_an_error(answering: Answering) -> None:
    good = answering(chunked(b'{"progress": "a"}\n{"result": {"name": "x"}}\n'))
    assert list(good.build_image("x", "base")) == [{"progress": "a"}, {"result": {"name": "x"}}]
    with pytest.raises(JobFailed, match="no room"):
        list(answering(chunked(b'{"progress": "a"}\n{"error": {"message": "no room"}}\n')).build_image("x", "base"))
    with pytest.raises(ConnectionLost):
        list(answering(chunked(b'{"progress": "a"}\n')).build_image("x", "base"))


def test_nobody_listens(tmp_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))  # a socket file that a killed daemon left behind
    for path in (dead, tmp_path / "none.sock"):
        with pytest.raises(DaemonUnreachable, match=r"nothing listens on .*\(start it: hutch serve\)"):
            Client(str(path)).tasks()


def test_no_permission(answering: Answering) -> None:
    client = answering(http("200 OK", b"{}"))
    Path(client.socket).chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may everything
    try:
        with pytest.raises(DaemonUnreachable, match=r"no permission to use .* \(run as root"):
            client.health()
    finally:
        if root:
            os.seteuid(0)
    Path(client.socket).chmod(0o600)
    client.health()  # for the server's thread, which waits for one request


@pytest.mark.parametrize("path", ["/dev/null", "/tmp/" + "x" * 200])
def test_paths_that_are_no_sockets(path: str) -> None:
    with pytest.raises(DaemonUnreachable):
        Client(path).tasks()


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("abc-1_.~", "abc-1_.~"), ("a/b?c#d", "a%2Fb%3Fc%23d"), ("é", "%C3%A9"), ("a\r\nb", "a%0D%0Ab")],
)
def test_names_stay_one_segment(name: str, quoted: str) -> None:
    assert quote(name) == quoted


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_would_be_another_path_are_refused(name: str) -> None:
    with pytest.raises(HutchError, match="is not a name"):
        Client("/dev/null").task(name)


def test_headers_can_not_be_broken_out_of(answering: Answering) -> None:
    client = answering(chunked(b'{"result": {}}\n'))
    list(client.import_image("x", [b"a", b"", b"bc"], source="a\r\nX-Evil: 1\r\n\r\né"))
    assert b"X-Hutch-Source: a??X-Evil: 1?????\r\n" in answering.servers[0].request
