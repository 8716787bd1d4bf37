"""Where requests and bodies begin and end, in the places where mitmproxy would leave that to the other side's guess.

Must be imported before mitmproxy handles a connection. It decides nothing about what is sent.
"""

import re
from typing import Any

from h11 import EndOfMessage
from h11._readers import ChunkedReader
from mitmproxy import flow
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import HttpStream, _http1
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestHeaders,
    RequestTrailers,
    ResponseData,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server

# What a server has sent, as mitmproxy, h11 and h2 quote it in their messages.
_QUOTED = re.compile(r"""[:(\s]+b?['"].*""", re.DOTALL)
_INVALID = "the server's answer has invalid header fields"  # told instead of what mitmproxy says of them, quoting
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r\n]")


class _Stream(HttpStream):
    """Without empty pieces of bodies, as an HTTP/2 peer may send any number of.

    In HTTP/1 one would be written as the chunk that ends the body, and what follows read as the next request or answer;
    to the functions that look at bodies it means the end.

    And an answer that can't be parsed is not quoted in the page that tells so: nobody has masked it.
    """

    def _handle_event(self, event: Any) -> Any:
        if isinstance(event, ResponseProtocolError):
            event.message = _QUOTED.sub("", event.message)
        if not isinstance(event, RequestData | ResponseData) or event.data:
            yield from super()._handle_event(event)

    def check_invalid(self, request: bool) -> Any:
        if request:
            return (yield from super().check_invalid(request))
        commands, result = super().check_invalid(request), None
        while True:
            try:
                command = commands.send(result)
            except StopIteration as end:
                return end.value
            if isinstance(command, HttpErrorHook):
                command.flow.error = flow.Error(_INVALID)
            elif isinstance(command, http.SendHttp) and isinstance(command.event, ResponseProtocolError):
                command.event.message = _INVALID
            result = yield command


class _Http1Client(Http1Client):
    """HTTP/1 to the server.

    For a client that speaks HTTP/2 mitmproxy streams a body of unknown length with neither length nor chunks, so that the
    server takes it for the next requests: ones that nobody has checked. And it decodes internationalised names for Host.

    An interim answer (100, 103) it takes for the answer, and the answer for that to the next request. Here they are dropped,
    as in HTTP/2.
    """

    def read_headers(self, event: Any) -> Any:
        while self.request and _INTERIM.match(self.buf._data, 0, 16):  # all of it would be copied for each of thousands
            if self.buf.maybe_extract_lines() is None:
                break  # there is more of it to come
        yield from super().read_headers(event)

    def send(self, event: Any) -> Any:
        if isinstance(event, RequestTrailers):
            return
        if isinstance(event, RequestHeaders) and event.request.is_http2:
            fields = event.request.headers
            if "host" not in fields:
                fields.insert(0, b"host", event.request.data.authority)
            if "content-length" not in fields and not event.end_stream:
                fields["transfer-encoding"] = "chunked"
        yield from super().send(event)


class _Http1Server(Http1Server):
    """HTTP/1 to the client. Here, too, an exchange would crash at trailers; whoever passes a message on may drop them."""

    def send(self, event: Any) -> Any:
        if not isinstance(event, ResponseTrailers):
            yield from super().send(event)


class _ChunkedReader(ChunkedReader):
    """Of either side's bodies in HTTP/1, without their trailers: mitmproxy would crash at them."""

    def __call__(self, buf: Any) -> Any:
        event = super().__call__(buf)
        return EndOfMessage() if isinstance(event, EndOfMessage) else event


# Where mitmproxy's layers look them up.
http.HttpStream = _Stream  # type: ignore[misc]
http.Http1Client = _Http1Client  # type: ignore[attr-defined]
http.Http1Server = _Http1Server  # type: ignore[attr-defined]
_http1.ChunkedReader = _ChunkedReader  # type: ignore[attr-defined]
