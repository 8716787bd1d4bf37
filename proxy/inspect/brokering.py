"""Brokered credentials in one request and its answer: put in on the way out, masked on the way back.

It looks into what passes by the rules of insertion.py and masking.py; no value of a credential gets into a record or an error.
"""

from collections.abc import Sequence
from dataclasses import replace

from mitmproxy import http
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from wsproto import events

from proxy.credentials import Credential
from proxy.insertion import BodyInserter, insert
from proxy.masking import Masker, refused_encoding, request_fields
from proxy.passage import Passage
from proxy.request import body

# Answers that come without a body, whatever their fields say of one.
_BODILESS_STATUS = (204, 304)


class Brokering:
    """Of one request to a host that some credentials are for."""

    def __init__(self, passage: Passage, credentials: Sequence[Credential], it: http.HTTPFlow) -> None:
        self._passage, self._credentials, self._flow = passage, credentials, it
        self.masker = Masker(credentials)
        self._body: BodyInserter | None = None
        self._refused: bytes | None = None  # what is told instead of an answer that can't be masked

    def put_in(self) -> None:
        """The request's head, as it goes out."""
        request, host, tls = self._flow.request, self._passage.name, self._passage.tls
        self._body = BodyInserter(self._credentials, host, tls, request.path, request.headers.fields)
        inserted = insert(self._credentials, host, tls, request.path, request.headers.fields)
        request.path = inserted.target
        request.headers.fields = tuple(request_fields(inserted.fields))

    def request_piece(self, data: bytes) -> bytes:
        """A piece of the request's body as it goes out; b"" for its end."""
        if self._body is None or not self._body.needed:
            return data
        return self._body.feed(data) if data else self._body.flush()

    def mask_head(self) -> None:
        """The answer's head, as it goes in."""
        response = self._flow.response
        assert response is not None
        response.reason = self.masker.mask_text(response.reason)
        if refused_encoding(response.headers.fields) and not self._has_no_body(response):
            self._refuse(response)
        response.headers.fields = tuple(self.masker.mask_fields(response.headers.fields))

    def _has_no_body(self, response: http.Response) -> bool:
        return self._flow.request.method == "HEAD" or response.status_code in _BODILESS_STATUS

    def _refuse(self, response: http.Response) -> None:
        why = "the server compressed its answer, so that no credential could be found and masked in it"
        self._refused = body(why, "failed")
        response.status_code, response.reason = 502, "Bad Gateway"
        response.headers.fields = ((b"content-type", b"text/plain"), (b"content-length", b"%d" % len(self._refused)))

    def response_piece(self, data: bytes) -> bytes:
        """A piece of the answer's body as it goes in; b"" for its end."""
        if self._refused is not None:
            told, self._refused = self._refused, b""
            return told
        return self.masker.feed(data) if data else self.masker.flush()

    def mask_trailers(self) -> None:
        """What follows the answer's body."""
        response = self._flow.response
        if response is not None and response.trailers is not None:
            response.trailers.fields = tuple(self.masker.mask_fields(response.trailers.fields))

    def mask_message(self, data: bytes) -> bytes:
        """A whole WebSocket message from the server."""
        return self.masker.whole(data)

    def mask_control_frames(self, server: WebsocketConnection) -> None:
        """The texts of WebSocket's other frames from the server, for which mitmproxy has no hook."""
        received = server.events
        server.events = lambda: map(self._masked, received())

    def _masked(self, event: events.Event) -> events.Event:
        match event:
            case events.CloseConnection(reason=str(reason)):
                return replace(event, reason=self.masker.mask_text(reason))
            case events.Ping(payload=payload) | events.Pong(payload=payload):
                return replace(event, payload=self.masker.whole(bytes(payload)))
        return event
