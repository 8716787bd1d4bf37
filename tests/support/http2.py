"""A raw HTTP/2 client: it sends what it is told to, valid or not, one attack a stream. Must not judge."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Fields = Sequence[tuple[str, str]]


class Stream(NamedTuple):
    """One request: its fields in this order, the pieces of its body (one DATA frame each), its trailers."""

    fields: Fields
    pieces: tuple[bytes, ...] = ()
    trailers: Fields = ()


@dataclass
class Answer:
    """What a stream got: `status` is "" without an answer, `reset` the code of a reset or of the connection's end."""

    status: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    ended: bool = False


def fields(path: str, *more: tuple[str, str], method: str = "GET", authority: str = "up.test") -> Fields:
    return [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path), *more]


class Client:
    """On a TLS connection with h2 chosen."""

    def __init__(self, sock: socket.socket) -> None:
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )  # fmt: skip
        self.sock, self.h2 = sock, h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.lost = False
        self.h2.initiate_connection()

    def send(self, stream: Stream) -> int:
        """Write a whole request; its number."""
        number = self.h2.get_next_available_stream_id()
        self.answers[number] = Answer()
        encoded = [(_bytes(name), _bytes(value)) for name, value in stream.fields]
        self.h2.send_headers(number, encoded, end_stream=not stream.pieces and not stream.trailers)
        for index, piece in enumerate(stream.pieces):
            self.h2.send_data(number, piece, end_stream=index == len(stream.pieces) - 1 and not stream.trailers)
        if stream.trailers:
            trailers = [(_bytes(name), _bytes(value)) for name, value in stream.trailers]
            self.h2.send_headers(number, trailers, end_stream=True)
        return number

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(self.h2.data_to_send())

    def wait(self, number: int, seconds: float = 5.0) -> Answer:
        """Until the stream has been answered or reset, the connection is over, or so long."""
        self.flush()
        answer, deadline = self.answers[number], time.monotonic() + seconds
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            while not (answer.ended or answer.reset is not None) and (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not (data := self.sock.recv(65_536)):
                    self.lost = True
                    break
                for event in self.h2.receive_data(data):
                    self._note(event)
                self.flush()
        return answer

    def ask(self, stream: Stream, seconds: float = 5.0) -> Answer:
        return self.wait(self.send(stream), seconds)

    def _note(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
        match event:
            case h2.events.ResponseReceived(headers=headers):
                pairs = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in headers or ()}
                answer.status, answer.fields = pairs.pop(":status", ""), pairs
            case h2.events.DataReceived():
                answer.body += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset(error_code=code):
                answer.reset = int(code or 0)
            case h2.events.ConnectionTerminated(error_code=code):
                self.lost = True
                for each in self.answers.values():
                    each.reset = int(code or 0) if not each.ended else each.reset


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
