"""TLS ClientHellos made by hand, right and wrong. Must not open a connection."""

from __future__ import annotations

import os

SERVER_NAME, SUPPORTED_VERSIONS, ENCRYPTED_CLIENT_HELLO = 0x0000, 0x002B, 0xFE0D


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(number: int, data: bytes) -> bytes:
    return number.to_bytes(2) + vector(2, data)


def sni(*names: bytes, kind: bytes = b"\0") -> bytes:
    return extension(SERVER_NAME, vector(2, b"".join(kind + vector(2, name) for name in names)))


def hello(*extensions: bytes, rest: bytes = b"") -> bytes:
    """A message whose extensions are these; `rest` follows them. Servers can't answer it."""
    body = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    return b"\1" + vector(3, body + vector(2, b"".join(extensions)) + rest)


def hello12(*extensions: bytes) -> bytes:
    """A message of TLS 1.2 that any server answers, with its certificate in the clear."""
    suites = bytes.fromhex("c02bc02fc02cc030cca9cca8")
    always = [
        extension(0x000A, vector(2, bytes.fromhex("001d00170018"))),  # groups
        extension(0x000B, vector(1, b"\0")),  # point formats
        extension(0x000D, vector(2, bytes.fromhex("040305030603080408050806040105010601"))),  # signatures
    ]
    body = b"\3\3" + os.urandom(32) + vector(1, b"") + vector(2, suites) + vector(1, b"\0")
    return b"\1" + vector(3, body + vector(2, b"".join([*extensions, *always])))


def records(message: bytes, size: int = 16_000) -> bytes:
    """A handshake message in records of so many bytes each."""
    return b"".join(b"\x16\3\1" + vector(2, message[at : at + size]) for at in range(0, len(message), size))
