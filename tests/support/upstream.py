"""Real HTTP and HTTPS servers for the filter's tests, on given addresses, which remember what reached them.

Must not need the network or files beyond its directory. A leak that can't be seen from inside is seen here.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.trust import make_ca

NAMES = ("up.test", "*.up.test", "other.test", "private.test", "*.private.test", "loop.test", "mixed.test")
CHUNK = bytes(range(256)) * 256


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    method: str
    host: str
    path: str
    tls: bool
    body: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    timeout = 60

    def log_message(self, format: str, *args: object) -> None: ...

    def _seen(self, body: int = 0) -> None:
        tls = isinstance(self.connection, ssl.SSLSocket)
        self.server.seen.append(Seen(self.command, self.headers.get("Host", ""), self.path, tls, body))

    def do_GET(self) -> None:
        self._seen()
        if self.path.startswith("/bytes/"):
            self._send_bytes(int(self.path.removeprefix("/bytes/")))
        elif self.path.startswith("/files/"):
            self._send_file(self.server.files / self.path.partition("?")[0].removeprefix("/files/"))
        elif self.path == "/websocket":
            self._websocket()
        elif self.path == "/websocket-bomb":
            self._websocket_bomb()
        elif self.path == "/swallow":
            self._switch()
            while self.connection.recv(len(CHUNK)):
                pass
            self.close_connection = True
        elif self.path == "/switch":
            self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
            self.connection.sendall(self.connection.recv(100))
            self.close_connection = True
        else:
            self._answer(f"hello {self.headers.get('Host')} {self.headers.get('Upgrade')}\n".encode())

    do_OPTIONS = do_DELETE = do_GET

    def do_POST(self) -> None:
        left = int(self.headers.get("Content-Length", "0"))
        total = left
        while left and (data := self.rfile.read(min(left, len(CHUNK)))):
            left -= len(data)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        self._seen(total)
        self._answer(f"got {total}\n".encode())

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Alt-Svc", 'h3=":443"')
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path: Path) -> None:
        if path.is_file():
            self._answer(path.read_bytes())
        else:
            self.send_error(404)

    def _send_bytes(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        while count > 0:
            self.wfile.write(CHUNK[:count])
            count -= len(CHUNK)

    def _websocket(self) -> None:
        """Accept, send back one frame as it came (unmasked), end."""
        self._switch()
        head = self.rfile.read(2)
        size = head[1] & 0x7F
        mask, data = self.rfile.read(4), self.rfile.read(size)
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.wfile.write(bytes((0x81, size)) + plain + b"\x88\x00")
        self.close_connection = True

    def _websocket_bomb(self) -> None:
        """Accept with an extension that nobody offered, and send a small frame that unpacks to 256 MiB."""
        self._switch(("Sec-WebSocket-Extensions", "permessage-deflate"))
        packer = zlib.compressobj(9, wbits=-15)
        packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]
        self.wfile.write(b"\xc1\x7f" + len(packed).to_bytes(8) + packed)
        self.close_connection = True

    def _switch(self, *fields: tuple[str, str]) -> None:
        key = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    context: ssl.SSLContext | None = None
    seen: list[Seen]
    files: Path

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        if self.context is not None:  # the handshake belongs into the connection's thread
            request.settimeout(20)
            request = self.context.wrap_socket(request, server_side=True)
        with request:
            super().finish_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None: ...  # clients go away as they like


class Upstream:
    """Servers on ports 80, 443, 8080 and 8443 of each address. `ca` is the certificate to trust, in PEM.
    /files/ is the directory `files`."""

    def __init__(self, directory: Path, addresses: Sequence[str]) -> None:
        self.seen: list[Seen] = []
        self.ca, context = certificates(directory)
        self._servers = []
        for address in addresses:
            for port in (80, 443, 8080, 8443):
                server = _Server((address, port), _Handler)
                server.seen, server.context = self.seen, context if port % 1000 == 443 else None
                server.files = directory / "files"
                self._servers.append(server)

    def __enter__(self) -> Upstream:
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.1,)) for server in self._servers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(10)

    def forget(self) -> None:
        self.seen.clear()


def certificates(directory: Path) -> tuple[bytes, ssl.SSLContext]:
    """A new CA's certificate, in PEM, and what a server for all NAMES needs (also in the directory's server.pem)."""
    ca_pem = make_ca()
    ca = x509.load_pem_x509_certificate(ca_pem)
    ca_key = serialization.load_pem_private_key(ca_pem, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return ca.public_bytes(serialization.Encoding.PEM), context
