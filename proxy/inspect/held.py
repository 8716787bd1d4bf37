"""How much one connection's layers of mitmproxy hold in memory for peers that don't read, and how much they may."""

from collections.abc import Iterator
from typing import Any

from mitmproxy import connection
from mitmproxy.proxy import layers
from mitmproxy.proxy.layers.http._http1 import Http1Connection
from mitmproxy.proxy.layers.http._http2 import Http2Connection
from mitmproxy.proxy.utils import ReceiveBuffer

HELD_BYTES = 256 * 1024 * 1024  # by all connections of a worker together, for peers that don't read
LEAST_HELD, MOST_HELD = 256 * 1024, 8 * 1024 * 1024  # by one of them
MOST_AHEAD = 128 * 1024  # requests in HTTP/1 that were sent before the first one's answer, or a head


def holds_too_much(top: Any, reading: connection.Connection | None, connections: int) -> bool:
    """Whether reading has to wait, in one of so many connections."""
    ahead = any(
        len(layer.buf) > MOST_AHEAD
        for layer in all_layers(top)
        if isinstance(layer, Http1Connection) and layer.conn is reading
    )
    return ahead or _held(top, reading) > max(LEAST_HELD, min(MOST_HELD, HELD_BYTES // max(1, connections)))


def all_layers(layer: Any) -> Iterator[Any]:
    """A layer and all below it."""
    todo: list[Any] = [layer]
    while todo:
        yield (layer := todo.pop())
        if (child := getattr(layer, "child_layer", None)) is not None:
            todo.append(child)
        if isinstance(layer, layers.HttpLayer):
            todo += [*layer.connections.values(), *layer.streams.values()]


def _held(top: Any, reading: connection.Connection | None) -> int:
    """Bytes held that reading from this connection would add to. What it holds for the connection itself doesn't
    count: its window updates have to be read to get rid of that."""
    total = 0
    for layer in all_layers(top):
        total += sum(len(getattr(event, "data", b"")) for event in layer._paused_event_queue)
        if isinstance(layer, Http2Connection) and layer.conn is not reading:
            total += sum(len(part.data) for parts in layer.h2_conn.stream_buffers.values() for part in parts)
        elif isinstance(layer, layers.WebsocketLayer):
            total += sum(len(part) for ws in (layer.client_ws, layer.server_ws) for part in ws.frame_buf)
    return total


class Discard(ReceiveBuffer):
    """Takes in the body of a refused request without keeping it, so that the client gets to read the refusal."""

    def __iadd__(self, other: Any) -> "Discard":
        return self
