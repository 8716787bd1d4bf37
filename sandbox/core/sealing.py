"""Secrets at rest: AES-256-GCM under a key that lies outside the database, each bound to its name.

The key is a systemd credential where the daemon was given one, else a file that it makes once. Neither key nor value is in any
message here.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sandbox.host.errors import HostError
from sandbox.host.key_files import read_key, write_key

CREDENTIAL: Final = "hutch-secrets-key"
_KEY: Final = 32  # bytes
_NONCE: Final = 12


class Sealer:
    """Seals and opens values. `origin` is where the key is from, for people."""

    def __init__(self, key: bytes, origin: str) -> None:
        self._cipher = AESGCM(key)
        self._key = key
        self._origin = origin

    @classmethod
    def load(cls, state: Path) -> Sealer:
        """With the installation's key, which is made where there is none. Raises HostError."""
        given = Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / CREDENTIAL
        path = state / "keys" / "secrets.key"
        if given.exists():
            path, text = given, _read_credential(given)
        elif (found := read_key(path)) is not None:
            text = found
        else:
            text = secrets.token_hex(_KEY) + "\n"
            write_key(path, text)
        return cls(_parse(text, path), str(path))

    def seal(self, name: str, value: str) -> bytes:
        """The value as it may lie in the database."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, value.encode(), name.encode())

    def fingerprint(self, text: str) -> str:
        """A keyed digest: the same text has the same one here, and nobody without the key can tell what it is of."""
        return hmac.new(self._key, b"fingerprint\0" + text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()

    def open(self, name: str, sealed: bytes) -> str:
        """The value again. Raises HostError if it was sealed with another key or under another name."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise HostError(
                f"cannot decrypt the secret {name}: it was not encrypted with the key in {self._origin}",
                f"put that key back, or give the value again: hutch secret rotate {name}",
            ) from error


def _read_credential(path: Path) -> str:
    """systemd guards this directory; its files may be its own, and readable by the service's group."""
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise HostError(
            f"cannot read the credential {path}: {error.strerror}", "see LoadCredential= in the unit"
        ) from error


def _parse(text: str, path: Path) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY:
        raise HostError(
            f"the key in {path} is not {2 * _KEY} hexadecimal digits", "make one with: openssl rand -hex 32"
        )
    return key
