"""Carries a passage through mitmproxy, which opens TLS and parses HTTP; the only package that imports mitmproxy.

mitmproxy parses and translates, and decides nothing: it gets no event loop, listener, file or resolver of its own.
Whatever goes wrong in a hook ends the connection, where mitmproxy's own addon manager would log it and go on.

    client ══TLS══▶ ClientTLSLayer ▶ HttpLayer ▶ hooks.py ──▶ Handler.open_connection = dial.py ══TLS══▶ server
    inspector.py: set up once     handler.py: one connection's I/O     hooks.py: one request     held.py: what is kept
"""

from proxy.inspect.inspector import BadAuthority, Inspector

__all__ = ["BadAuthority", "Inspector"]
