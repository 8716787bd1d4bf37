"""Runs on a client: opens many HTTPS connections from many addresses, uses each once, and keeps them idle until told to end.

    python network_hold.py HOST PORT TRUST EACH RESOLVER ADDRESS SOURCE…     (EACH connections from every SOURCE)

Prints a line when all are open; reads a line; shows that each still answers, and prints another. Standard library only: it
runs outside of everything, as a sandbox's programs do. RESOLVER is asked from each source for HOST; "-": ADDRESS is it.
"""

from __future__ import annotations

import resource
import socket
import ssl
import struct
import sys

PATH = "/small"
OK = b"HTTP/1.1 200 "
LIMIT = 60.0


def main() -> None:
    host, port, trust, each, resolver, fixed, *sources = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    context = ssl.create_default_context(cafile=trust)
    held = []
    for source in sources:
        address = fixed if resolver == "-" else ask(resolver, source, host)
        for _ in range(int(each)):
            plain = socket.create_connection((address, int(port)), LIMIT, (source, 0))
            held.append(context.wrap_socket(plain, server_hostname=host))
            get(held[-1], host)
    print("open", flush=True)
    sys.stdin.readline()
    for connection in held:
        get(connection, host)
    print("answered", flush=True)


def ask(resolver: str, source: str, name: str) -> str:
    """The first address of a name, asked for from one address."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(LIMIT)
        udp.bind((source, 0))
        udp.sendto(
            struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1), (resolver, 53)
        )
        answer = udp.recv(512)
    if struct.unpack("!H", answer[6:8]) != (1,):
        raise SystemExit(f"{source}: no address for {name}")
    return socket.inet_ntoa(answer[-4:])


def get(connection: ssl.SSLSocket, host: str) -> None:
    """One request, answered in full."""
    connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello\n"):
        piece = connection.recv(65_536)
        answer += piece
        if not piece or (len(answer) >= len(OK) and not answer.startswith(OK)):
            raise SystemExit(f"answered: {answer[:200]!r}")


if __name__ == "__main__":
    main()
