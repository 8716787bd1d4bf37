"""mitmproxy set up once for a worker: the CA, whom to trust upstream, the options; and passages handed to it."""

import asyncio
import socket
from asyncio import StreamWriter
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mitmproxy import certs, ctx, options
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.proxy import mode_specs

from proxy import lines
from proxy.artifacts.pulse import Pulse
from proxy.dial import Dialler
from proxy.inspect.handler import READ_BUFFER, Handler
from proxy.passage import Passage
from proxy.turns import Reader, Work

# A connection may say nothing for this long: terminals, notebooks and debuggers do. Their number has a limit anyway.
IDLE_SECONDS = 24 * 3600


class BadAuthority(ValueError):
    """The CA can't be used. The message says why."""


class Inspector:
    """`artifacts`: takes connections to the artifact cache, whose pulse it is; None where there is none."""

    def __init__(
        self, ca_pem: str, upstream_trust: str, dialler: Dialler, artifacts: socket.socket | None, pulse: Pulse
    ) -> None:
        lines.trust(upstream_trust)  # mitmproxy reads it with the first connection only
        self.dialler, self.artifacts, self._pulse, self.open = dialler, artifacts, pulse, 0
        self.options = options.Options()
        self.tls = TlsConfig()
        for addon in (self.tls, Proxyserver()):  # type: ignore[no-untyped-call]
            addon.load(Loader(SimpleNamespace(options=self.options)))  # type: ignore[no-untyped-call]
        self.options.update(  # type: ignore[no-untyped-call]
            connection_strategy="lazy",  # nothing is dialled before a request has been allowed
            rawtcp=False,
            http3=False,
            ssl_verify_upstream_trusted_ca=upstream_trust,
            upstream_cert=False,
            tcp_timeout=IDLE_SECONDS,
        )
        ctx.options = self.options
        self.tls.certstore = _cert_store(ca_pem)
        self.mode = mode_specs.ProxyMode.parse("transparent")

    def has_artifacts(self) -> bool:
        """Whether the artifact cache answers now."""
        return self.artifacts is not None and self._pulse.alive

    async def carry(self, passage: Passage, client: socket.socket) -> None:
        """Serve the passage to its end. Takes over the socket."""
        loop = asyncio.get_running_loop()
        work = Work()
        reader = Reader(passage.sandbox.turn, work, READ_BUFFER)
        reader.feed_data(passage.already)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, client)
        self.open += 1
        try:
            writer = StreamWriter(transport, protocol, reader, loop)
            passage.carrier = handler = Handler(self, passage, work, reader, writer)
            await handler.handle_client()
            handler.tell_refusal()
        finally:
            self.open -= 1
            transport.close()


def _cert_store(ca_pem: str) -> certs.CertStore:
    """A store made in memory: mitmproxy would otherwise keep the key in a directory."""
    try:
        key: Any = load_pem_private_key(ca_pem.encode(), None)
        ca = x509.load_pem_x509_certificate(ca_pem.encode())
    except ValueError as error:
        raise BadAuthority(f"ca_pem is not a key and a certificate in PEM form: {error}") from error
    return certs.CertStore(key, certs.Cert(ca), None, b"", certs.DHParams(b""))
