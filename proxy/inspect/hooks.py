"""The decisions about each request of an inspected connection, and what is told and recorded of it.

mitmproxy calls on_<hook>; an exception in one ends the connection (handler.py). No I/O but resolving.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from mitmproxy import flow, http
from mitmproxy.proxy.layers.websocket import WebsocketConnection

from proxy.addresses import Refused
from proxy.artifacts.ask import CACHE_HEADER, REASON_HEADER, UPSTREAM_HEADER, can_be_asked
from proxy.artifacts.route import forwarded, may_use
from proxy.destination import Denied
from proxy.dial import DialError, Dialler
from proxy.inspect.brokering import Brokering
from proxy.passage import Asked, Passage
from proxy.records import printable
from proxy.request import DENIED_HEADER, Head, body, path_of, refusal, strip_upgrades
from proxy.restrict import WITHOUT_BODY, overrides

# Where a request goes that the artifact cache answers; no host can be called so.
ARTIFACTS = ("artifacts.invalid", 80)
_VERSIONS = {True: ("HTTP/2.0",), False: ("HTTP/1.0", "HTTP/1.1")}  # by whether the client speaks HTTP/2


@dataclass(slots=True)
class _Request:
    """What is known of a request while it is under way."""

    rule: str = ""
    size: int = 0  # bytes in both directions
    answered: bool = False  # by the filter: it is in the records already
    from_artifacts: bool = False
    drops_body: bool = False
    brokering: Brokering | None = None


class Hooks:
    """Of one passage. `has_artifacts()`: whether a cache of them answers. `discard_body(flow)` makes mitmproxy drop what
    a refused request still sends."""

    def __init__(
        self,
        passage: Passage,
        dialler: Dialler,
        has_artifacts: Callable[[], bool],
        discard_body: Callable[[http.HTTPFlow], None],
    ) -> None:
        self._passage, self._dialler = passage, dialler
        self._has_artifacts, self._discard_body = has_artifacts, discard_body
        self._requests: dict[str, _Request] = {}  # by the flow's id
        self.seen = False  # whether there was a request, or another reason to record

    async def on_requestheaders(self, it: http.HTTPFlow) -> None:
        """The decision about one request. What is not refused here is streamed to the one server of the passage."""
        self._requests[it.id], self.seen = _Request(), True
        try:
            await self._check(it)
        except Denied as denied:
            self._answer(it, 403, denied.reason)
            self._passage.denied(denied, method=it.request.method, path=path_of(it.request.path))
        except DialError as error:
            self._answer(it, 502, str(error))
            self._passage.allowed(str(error), method=it.request.method, path=path_of(it.request.path))
        else:
            self._send_on(it)

    async def _check(self, it: http.HTTPFlow) -> None:
        passage, policy = self._passage, self._passage.sandbox.policy
        if not (decision := passage.decide()).allowed:
            raise Denied(decision.reason, decision.rule)
        if it.request.http_version not in _VERSIONS[it.client_conn.alpn == b"h2"]:
            raise Denied("the request is of an unknown version of HTTP")
        if why := refusal(_head(it.request), passage.name, passage.port, absolute=passage.absolute):
            raise Denied(why)
        if it.error is not None:  # mitmproxy has found it malformed, answers 400, and only wants it to be seen
            raise Denied(it.error.msg)
        asked = Asked(it.request.method, it.request.path, _fields(it.request.headers))
        if not (decision := passage.decide_request(asked)).allowed:
            raise Denied(decision.reason, decision.rule)
        self._requests[it.id].rule = decision.rule
        passage.requests[it.id] = asked  # before the wait: a policy that changes in it must know of this request
        if self._from_artifacts(asked):
            self._requests[it.id].from_artifacts = True
            return
        try:
            await self._dialler.resolve(passage.name, passage.sandbox.look_ups, policy.denied_networks)
        except Refused as refused:
            raise Denied(str(refused)) from refused

    def _from_artifacts(self, asked: Asked) -> bool:
        """Whether the artifact cache may answer. Not where a credential makes the answer this sandbox's own."""
        policy, name = self._passage.sandbox.policy, self._passage.name
        own = any(each.covers(name) for each in policy.credentials)
        # The cache resolves by itself, and knows nobody's denied networks.
        if own or policy.denied_networks or not can_be_asked(asked.target):
            return False
        return may_use(asked.method, asked.fields, name, policy.artifact_hosts) and self._has_artifacts()

    def _send_on(self, it: http.HTTPFlow) -> None:
        passage, request = self._passage, self._requests[it.id]
        if not it.request.is_http2:
            it.request.authority = ""  # always in origin form
        strip_upgrades(it.request.headers)
        credentials = [each for each in passage.sandbox.policy.credentials if each.covers(passage.name)]
        if credentials:  # without TLS nothing is put in, but what comes back is masked all the same
            request.brokering = Brokering(passage, credentials, it)
            request.brokering.put_in()
        if request.from_artifacts:
            _redirect(it.request, passage)
        drop = request.drops_body = _announces_no_body(it.request)

        def piece(data: bytes) -> list[bytes]:
            request.size += len(data)
            if drop:
                return []
            return _some(request.brokering.request_piece(data) if request.brokering else data)

        it.request.stream = piece

    def on_request(self, it: http.HTTPFlow) -> None:
        """All of it has come. Trailers come when the decision has long been made: they go on where they can't change it."""
        trailers = it.request.trailers
        if trailers and (self._requests[it.id].drops_body or overrides(name for name, _ in _fields(trailers))):
            it.request.trailers = None

    def _answer(self, it: http.HTTPFlow, status: int, reason: str) -> None:
        self._requests[it.id].answered = True
        fields = {"content-type": "text/plain"} | ({DENIED_HEADER: printable(reason)} if status == 403 else {})
        it.response = http.Response.make(status, body(reason, "denied" if status == 403 else "failed"), fields)
        self._discard_body(it)

    def on_responseheaders(self, it: http.HTTPFlow) -> None:
        request = self._requests[it.id]
        if it.response is None:
            return
        if self._passage.absolute:
            it.response.headers["connection"] = "close"  # a client would send requests for other hosts on it
        if request.answered:
            return
        if it.response.status_code == 101 and not _to_websocket(it.request, it.response):
            it.error = flow.Error(flow.Error.KILLED_MESSAGE)  # an opaque tunnel otherwise
            return
        it.response.headers.pop(DENIED_HEADER, None)  # says that the filter speaks
        # None was offered (see strip_upgrades). Compressed frames would be unpacked here, to any size.
        it.response.headers.pop("sec-websocket-extensions", None)
        if not request.from_artifacts:
            it.response.headers.pop(CACHE_HEADER, None)
        elif it.response.headers.get(CACHE_HEADER) == "none":
            self._pass_on_why(it, it.response)
            return
        it.response.headers.pop("alt-svc", None)  # leads to QUIC, which goes nowhere, and to other names
        if request.brokering:
            request.brokering.mask_head()

        def piece(data: bytes) -> list[bytes]:
            request.size += len(data)
            return _some(request.brokering.response_piece(data) if request.brokering else data)

        it.response.stream = piece

    def _pass_on_why(self, it: http.HTTPFlow, response: http.Response) -> None:
        """The artifact cache has no answer of a server. Its reason is ours, for who asked and for the record."""
        self._requests[it.id].answered, response.stream = True, True
        reason, path = response.headers.pop(REASON_HEADER, ""), path_of(it.request.path)
        if response.status_code == 403:
            response.headers[DENIED_HEADER] = reason
            self._passage.denied(Denied(reason), method=it.request.method, path=path)
        else:
            self._passage.allowed(reason, method=it.request.method, path=path, rule=self._requests[it.id].rule)

    def on_response(self, it: http.HTTPFlow) -> None:
        request = self._requests[it.id]
        if request.brokering:
            request.brokering.mask_trailers()
        if it.websocket is None:
            self._ended(it)

    def on_error(self, it: http.HTTPFlow) -> None:
        self._ended(it, it.error.msg if it.error else "")

    def server_frames(self, it: http.HTTPFlow, server: WebsocketConnection) -> None:
        """A WebSocket begins, and these are its server's frames."""
        if brokering := self._requests[it.id].brokering:
            brokering.mask_control_frames(server)

    def on_websocket_message(self, it: http.HTTPFlow) -> None:
        assert it.websocket is not None
        request, message = self._requests[it.id], it.websocket.messages[-1]
        request.size += len(message.content)
        if request.brokering and not message.from_client:
            message.content = request.brokering.mask_message(message.content)
        it.websocket.messages.clear()  # else all of them would be kept to the end

    def on_websocket_end(self, it: http.HTTPFlow) -> None:
        self._ended(it)

    def _ended(self, it: http.HTTPFlow, reason: str = "") -> None:
        self._passage.requests.pop(it.id, None)
        request = self._requests.pop(it.id, None)
        if request is None or request.answered:
            return
        if request.brokering:
            reason = request.brokering.masker.mask_text(reason)
        path = path_of(it.request.path)
        self._passage.allowed(reason, method=it.request.method, path=path, size=request.size, rule=request.rule)


def _redirect(request: http.Request, passage: Passage) -> None:
    """To the artifact cache, with what it may see of the request, and the one server that it may ask."""
    host, scheme = request.headers.get("host") or request.authority, "https" if passage.tls else "http"
    fields = (("host", host), (UPSTREAM_HEADER, f"{scheme}://{passage.name}:{passage.port}"))
    request.headers = http.Headers(
        [(name.encode(), value.encode("latin-1")) for name, value in (*fields, *forwarded(_fields(request.headers)))]
    )
    (request.host, request.port), request.scheme = ARTIFACTS, "http"
    request.headers["host"] = host  # which mitmproxy has changed with the host


def _to_websocket(request: http.Request, response: http.Response) -> bool:
    """Whether the server changes to the one protocol that goes on being parsed, as the client has asked it to."""
    return not request.is_http2 and all(
        message.headers.get("upgrade", "").lower() == "websocket" for message in (request, response)
    )


def _some(data: bytes) -> list[bytes]:
    """What mitmproxy is to send: an empty piece would be written as the chunk that ends a body."""
    return [data] if data else []


def _announces_no_body(request: http.Request) -> bool:
    """A body that no field announces (HTTP/2 can send one) was in nobody's decision, and does not go with the request."""
    announced = "content-length" in request.headers or "transfer-encoding" in request.headers
    return request.method in WITHOUT_BODY and not announced


def _fields(headers: http.Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.fields)


def _head(request: http.Request) -> Head:
    """The head as it is on the wire: what mitmproxy shows has been decoded, and the method put in upper case."""
    fields = [(name.lower(), value) for name, value in request.headers.fields]
    hosts = tuple(value.decode("latin-1") for name, value in fields if name == b"host")
    method, authority = request.data.method.decode("latin-1"), request.data.authority.decode("latin-1")
    return Head(request.is_http2, method, authority, request.path, hosts, tuple(chain(*fields)))
