"""The server that all ways lead to: nginx, as cheap as a server gets, in place of the laboratory's own ones.

Must not be reachable from elsewhere: its address is one of the laboratory's, in the bench's own network namespace.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.upstream import Upstream, certificates

HOST, PORT = "up.test", 443
SMALL, LARGE = "/small", "/large"
LARGE_BYTES = 1 << 30
START_SECONDS = 10.0
CONFIG = """
daemon off; worker_processes 1; worker_rlimit_nofile 16384; user nobody nogroup;
pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_timeout 3600s; keepalive_requests 1000000000;
    server {{
        ssl_protocols TLSv1.2 TLSv1.3;  # Debian 12: not 1.3 unless told
        listen {address}:{port} ssl backlog=4096;
        ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem;
        root {directory}/files;
        location {small} {{ return 200 "hello\\n"; }}
    }}
}}
"""


class Nginx(Upstream):
    """nginx on the first of the addresses: a small answer and a file of 1 GiB, by TLS with an ECDSA key."""

    def __init__(self, directory: Path, addresses: Sequence[str]) -> None:
        self.seen = []
        self.ca, _ = certificates(directory)
        self._address = addresses[0]
        self._config = directory / "nginx.conf"
        text = CONFIG.format(directory=directory, address=self._address, port=PORT, small=SMALL)
        self._config.write_text(text)
        (directory / "files").mkdir()
        with (directory / "files" / LARGE.lstrip("/")).open("wb") as file:
            os.truncate(file.fileno(), LARGE_BYTES)  # a hole: reading it costs no disk
        directory.chmod(0o755)  # its worker is nobody

    def __enter__(self) -> Nginx:
        self._process = subprocess.Popen(["nginx", "-c", str(self._config)], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((self._address, PORT), 1).close()
                return self
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError("nginx did not start; its message is above") from error
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
