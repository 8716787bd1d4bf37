"""One HTTP request over the filter's own dialler: never to an address that a sandbox couldn't reach, TLS always verified.

Reads no more of an answer than it was told to. Follows nothing: whoever asked decides where to go next.
"""

import asyncio
import ssl
from dataclasses import dataclass

import h11

from proxy.dial import Dialler
from proxy.registries.index import MAX_URL
from proxy.sandboxes import Turns

_READ = 64 << 10


class GetError(Exception):
    """No answer that says anything. One clause: why."""


@dataclass(frozen=True, slots=True)
class Response:
    """`location`: where a redirect leads, as the server wrote it. `body` may be cut off."""

    status: int
    location: str
    body: bytes


class Web:
    """Makes requests to clean URLs (see index.clean)."""

    def __init__(self, dialler: Dialler, trust: str) -> None:
        self._dialler, self._turns = dialler, Turns()
        self._tls = ssl.create_default_context(cafile=trust)
        # On by default since Python 3.13; many a company's own CA lacks what it asks for, and the filter doesn't ask for it.
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT

    async def request(self, method: str, url: str, accept: str = "*/*", most: int = 0) -> Response:
        """Raises GetError, and what the dialler and TLS raise. At most `most` bytes of the body are read."""
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        name, _, port = authority.partition(":")
        secure = scheme == "https"
        connected = await self._dialler.connect(name, int(port or (443 if secure else 80)), self._turns)
        try:
            tls = {"ssl": self._tls, "server_hostname": name} if secure else {}
            reader, writer = await asyncio.open_connection(sock=connected, **tls)  # type: ignore[arg-type]
        except BaseException:
            connected.close()
            raise
        try:
            fields = [("Host", authority), ("Accept", accept), ("User-Agent", "hutch"), ("Connection", "close")]
            request = h11.Request(method=method, target=f"/{path}", headers=fields)
            return await _converse(reader, writer, request, most)
        finally:
            writer.transport.abort()


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, most: int
) -> Response:
    http = h11.Connection(h11.CLIENT)
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    head: h11.Response | None = None
    body = bytearray()
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ))
                continue
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or (head is not None and len(body) >= most):
                break
    except h11.RemoteProtocolError as error:
        raise GetError(f"it doesn't speak HTTP as it should: {error}") from error
    if head is None:
        raise GetError("it closed the connection without an answer")
    location = next((value for name, value in head.headers if name == b"location"), b"")
    return Response(head.status_code, location.decode("latin-1")[:MAX_URL], bytes(body[:most]))
