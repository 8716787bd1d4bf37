"""Servers as far away as most are: relays on this host's own addresses that give them a distance and a narrow line.

Must not look into what passes: it is TLS between the filter and the server. The addresses are TEST-NET's, on lo.

    filter ──▶ 198.51.100.x on lo ─ late and slow ─▶ the server that really has the name
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.support.filter_lab import sh

ROUND_TRIP = 0.05  # seconds
BYTES_PER_SECOND = 25e6 / 8
DISTANCE = f"{ROUND_TRIP * 1000:g} ms and {BYTES_PER_SECOND * 8 / 1e6:g} Mbit/s"
PIECE = 16_384
WAITING = 64  # pieces on their way, like packets in a router


class Line:
    """One direction of the line that all share: whoever sends takes his turn, and it arrives half a round trip later."""

    def __init__(self) -> None:
        self._free = 0.0

    def arrival(self, size: int) -> float:
        """When what is sent now will have arrived."""
        self._free = max(asyncio.get_running_loop().time(), self._free) + size / BYTES_PER_SECOND
        return self._free + ROUND_TRIP / 2


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    """One direction of one connection, to its end."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

    async def arrive() -> None:
        while True:
            when, piece = await under_way.get()
            await asyncio.sleep(when - asyncio.get_running_loop().time())
            writer.write(piece)
            if not piece:
                return writer.close()
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(arrive())
        while piece := await reader.read(PIECE):
            await under_way.put((line.arrival(len(piece)), piece))
        await under_way.put((line.arrival(0), b""))


class Relay:
    """All connections to all names, over one line."""

    def __init__(self) -> None:
        self._there, self._back = Line(), Line()

    async def listen(self, address: str, name: str, port: int) -> None:
        """Take connections to this address for the name."""
        real = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]

        async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, ExceptionGroup):
                from_server, to_server = await asyncio.open_connection(str(real), port)
                await asyncio.sleep(ROUND_TRIP)  # what connecting takes
                async with asyncio.TaskGroup() as group:
                    group.create_task(carry(reader, to_server, self._there))
                    group.create_task(carry(from_server, writer, self._back))

        await asyncio.start_server(visit, address, port)


@contextmanager
def away(names: set[tuple[str, int]]) -> Iterator[str]:
    """Relays for these names and ports, and the hosts file that leads to them."""
    loop, hosts = asyncio.new_event_loop(), ""
    with ExitStack() as stack:
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(loop.call_soon_threadsafe, loop.stop)
        relay = Relay()
        for number, (name, port) in enumerate(sorted(names), 1):
            address = f"198.51.100.{number}"
            sh("ip", "address", "add", f"{address}/32", "dev", "lo")
            stack.callback(sh, "ip", "address", "del", f"{address}/32", "dev", "lo")
            asyncio.run_coroutine_threadsafe(relay.listen(address, name, port), loop).result(30)
            hosts += f"{address} {name}\n"
        yield hosts
