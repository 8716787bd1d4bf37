"""The decisions about each request of an inspected connection, and what is told and recorded of it.

mitmproxy calls on_<hook>; an exception in one ends the connection (handler.py). No I/O but resolving.
"""

from collections.abc import Callable

from mitmproxy import flow, http

from proxy.addresses import Refused
from proxy.destination import Denied
from proxy.dial import DialError, Dialler
from proxy.passage import Asked, Passage
from proxy.records import printable
from proxy.request import DENIED_HEADER, Head, body, path_of, refusal, strip_upgrades

# Where a request goes that the artifact cache answers; no host can be called so.
ARTIFACTS = ("artifacts.invalid", 80)
_BODILESS = ("GET", "HEAD", "OPTIONS")


class Hooks:
    """Of one passage. `discard_body(flow)` makes mitmproxy drop what a refused request still sends."""

    def __init__(self, passage: Passage, dialler: Dialler, discard_body: Callable[[http.HTTPFlow], None]) -> None:
        self._passage, self._dialler, self._discard_body = passage, dialler, discard_body
        self.seen = False  # whether there was a request, or another reason to record

    async def on_requestheaders(self, it: http.HTTPFlow) -> None:
        """The decision about one request. What is not refused here is streamed to the one server of the passage."""
        it.metadata["size"], self.seen = 0, True
        try:
            await self._check(it)
        except Denied as denied:
            self._answer(it, 403, denied.reason)
            self._passage.denied(denied, method=it.request.method, path=path_of(it.request.path))
        except DialError as error:
            self._answer(it, 502, str(error))
            self._passage.allowed(str(error), method=it.request.method, path=path_of(it.request.path))
        else:
            it.request.authority = it.request.authority if it.request.is_http2 else ""  # always in origin form
            strip_upgrades(it.request.headers)
            it.request.stream = _counter(it, drop=_announces_no_body(it.request))

    async def _check(self, it: http.HTTPFlow) -> None:
        passage, policy = self._passage, self._passage.sandbox.policy
        if not (decision := passage.decide()).allowed:
            raise Denied(decision.reason, decision.rule)
        if why := refusal(_head(it.request), passage.name, passage.port, absolute=passage.absolute):
            raise Denied(why)
        if it.error is not None:  # mitmproxy has found it malformed, answers 400, and only wants it to be seen
            raise Denied(it.error.msg)
        asked = Asked(it.request.method, it.request.path, _fields(it.request))
        if not (decision := passage.decide_request(asked)).allowed:
            raise Denied(decision.reason, decision.rule)
        it.metadata["rule"] = decision.rule
        try:
            await self._dialler.resolve(passage.name, passage.sandbox.look_ups, policy.denied_networks)
        except Refused as refused:
            raise Denied(str(refused)) from refused
        passage.requests[it.id] = asked

    def _answer(self, it: http.HTTPFlow, status: int, reason: str) -> None:
        it.metadata["answered"] = True
        fields = {"content-type": "text/plain"} | ({DENIED_HEADER: printable(reason)} if status == 403 else {})
        it.response = http.Response.make(status, body(reason, "denied" if status == 403 else "failed"), fields)
        self._discard_body(it)

    def on_responseheaders(self, it: http.HTTPFlow) -> None:
        if it.response is None:
            return
        if self._passage.absolute:
            it.response.headers["connection"] = "close"  # a client would send requests for other hosts on it
        if "answered" in it.metadata:
            return
        if it.response.status_code == 101 and it.response.headers.get("upgrade", "").lower() != "websocket":
            it.error = flow.Error(flow.Error.KILLED_MESSAGE)  # an opaque tunnel otherwise
            return
        it.response.headers.pop("alt-svc", None)  # leads to QUIC, which goes nowhere, and to other names
        it.response.stream = _counter(it)

    def on_response(self, it: http.HTTPFlow) -> None:
        if it.websocket is None:
            self._ended(it)

    def on_error(self, it: http.HTTPFlow) -> None:
        self._ended(it, it.error.msg if it.error else "")

    def on_websocket_message(self, it: http.HTTPFlow) -> None:
        assert it.websocket is not None
        it.metadata["size"] += len(it.websocket.messages[-1].content)
        it.websocket.messages.clear()  # else all of them would be kept to the end

    def on_websocket_end(self, it: http.HTTPFlow) -> None:
        self._ended(it)

    def _ended(self, it: http.HTTPFlow, reason: str = "") -> None:
        self._passage.requests.pop(it.id, None)
        if "answered" not in it.metadata:
            self._passage.allowed(
                reason, method=it.request.method, path=path_of(it.request.path), size=it.metadata.get("size", 0),
                rule=it.metadata.get("rule"),
            )  # fmt: skip


def _counter(it: http.HTTPFlow, *, drop: bool = False) -> Callable[[bytes], bytes]:
    """Counts what passes, and with `drop` lets nothing pass."""

    def count(data: bytes) -> bytes:
        it.metadata["size"] += len(data)
        return b"" if drop else data

    return count


def _announces_no_body(request: http.Request) -> bool:
    """A body that no field announces (HTTP/2 can send one) was in nobody's decision, and does not go with the request."""
    announced = "content-length" in request.headers or "transfer-encoding" in request.headers
    return request.method in _BODILESS and not announced


def _fields(message: http.Message) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in message.headers.fields)


def _head(request: http.Request) -> Head:
    hosts = tuple(request.headers.get_all("host"))
    values = tuple(value for _, value in request.headers.fields)
    return Head(request.is_http2, request.method, request.authority, request.path, hosts, values)
