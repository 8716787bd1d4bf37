"""The trust stores of Java machines (a JDK's cacerts) as bytes: certificates are added to those that are there already.

Pure; it runs no program of an image. What it can't read it refuses, so that the caller can leave that as it is.

    JKS: magic, version, count ─ entries … ─ SHA-1 of the password, a word, and everything before
"""

import base64
import hashlib
import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

PASSWORD = "changeit"  # of every cacerts; Java itself opens them without
_JKS, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_HEAD = struct.Struct(">III")
_DIGEST = hashlib.sha1().digest_size
_DER = b"\x30"  # how a PKCS #12 store starts


class BadKeystore(ValueError):
    """It is in neither of the two forms, damaged, or has a password of its own."""


def add_certificates(store: bytes, certificates: Sequence[bytes]) -> bytes:
    """`store` (nothing for a new one) with these certificates (PEM) added, as JKS. Raises BadKeystore.

    JKS whatever it was: every Java reads it, under the name PKCS12 too, and without a password; a PKCS #12 store
    without one fails for programs that give the usual one, and the other way round.
    """
    ders = [_der(pem) for pem in certificates]
    if store[:1] == _DER:
        store, ders = b"", [*_certificates_of_pkcs12(store), *ders]
    body = store[:-_DIGEST] or _HEAD.pack(_JKS, _VERSION, 0)
    if len(body) < _HEAD.size or _HEAD.unpack_from(body)[:2] != (_JKS, _VERSION):
        raise BadKeystore("it is neither a JKS nor a PKCS #12 keystore")
    if store and _sealed(body) != store:
        raise BadKeystore("it is damaged, or has a password of its own")
    count = _HEAD.unpack_from(body)[2] + len(ders)
    return _sealed(_HEAD.pack(_JKS, _VERSION, count) + body[_HEAD.size :] + b"".join(map(_entry, ders)))


def _der(pem: bytes) -> bytes:
    """Without parsing it: in every bundle is a certificate that a strict parser doesn't like."""
    return base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))


def _certificates_of_pkcs12(store: bytes) -> list[bytes]:
    for password in (PASSWORD.encode(), None):
        try:
            known = load_pkcs12(store, password).additional_certs
        except ValueError:
            continue
        return [each.certificate.public_bytes(Encoding.DER) for each in known]
    raise BadKeystore("it is no PKCS #12 keystore with the usual password or none")


def _entry(der: bytes) -> bytes:
    alias = f"hutch-{hashlib.sha256(der).hexdigest()[:16]}"
    date = struct.pack(">Q", 0)  # when it was added: always the same, so that equal stores are equal bytes
    return struct.pack(">I", _TRUSTED) + _text(alias) + date + _text("X.509") + struct.pack(">I", len(der)) + der


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")


def _sealed(body: bytes) -> bytes:
    digest = hashlib.sha1(PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False)
    return body + digest.digest()
