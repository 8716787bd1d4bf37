"""What the filter is told of this host: its trusted certificates and its own addresses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from sandbox.host.errors import HostError

_HOST_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem",
)  # fmt: skip


def host_bundle() -> Path:
    """The host's bundle of trusted certificates: SSL_CERT_FILE as for any program, or the system's. Raises HostError."""
    for candidate in (os.environ.get("SSL_CERT_FILE", ""), *_HOST_BUNDLES):
        if Path(candidate).is_file():
            return Path(candidate)
    raise HostError("cannot find the host's trusted certificates", "apt-get install ca-certificates")


def host_addresses() -> list[str]:
    """This host's own addresses: nothing inside may reach the host's services through the filter."""
    listed = subprocess.run(["ip", "-json", "address"], capture_output=True, timeout=10, check=True).stdout
    return [entry["local"] for link in json.loads(listed) for entry in link.get("addr_info", []) if "local" in entry]
