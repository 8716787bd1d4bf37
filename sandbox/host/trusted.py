"""What the filter is told of this host: its trusted certificates, its own addresses, and the installation's CA."""

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


def read_ca(path: Path) -> str | None:
    """The installation's CA (key and certificate, PEM), or None when it has not been made."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def write_ca(path: Path, pem: str) -> None:
    """Store a new CA, readable by root alone from its first byte."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(pem)
        file.flush()
        os.fsync(fd)
    temporary.rename(path)
