"""Java's keystores and the other stores of the trust layer, read back by a parser of this file's own and by OpenSSL.

Must not need Java: tests/e2e/test_programs.py shows that a real one takes them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from proxy import trust_stores
from proxy.keystore import BadKeystore, add_certificates
from proxy.trust import ca_certificate, make_ca, trust_env

ONE, TWO, THREE = (ca_certificate(make_ca()) for _ in range(3))


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def read(store: bytes, password: str = "changeit") -> dict[str, bytes]:
    """Alias -> certificate."""
    body, digest = store[:-20], store[-20:]
    assert hashlib.sha1(password.encode("utf-16-be") + b"Mighty Aphrodite" + body).digest() == digest
    file = io.BytesIO(body)

    def number(size: int = 4) -> int:
        return int.from_bytes(file.read(size))

    assert (number(), number()) == (0xFEEDFEED, 2)
    found = {}
    for _ in range(number()):
        assert number() == 2
        alias = file.read(number(2)).decode()
        number(8)
        assert file.read(number(2)) == b"X.509"
        found[alias] = file.read(number())
    assert file.read() == b""
    return found


def test_a_new_store() -> None:
    store = add_certificates(b"", [ONE, TWO])
    assert list(read(store).values()) == [der(ONE), der(TWO)]
    assert add_certificates(b"", [ONE, TWO]) == store, "the same content is the same layer"


def test_what_was_in_a_store_stays_in_front() -> None:
    assert list(read(add_certificates(add_certificates(b"", [ONE]), [TWO, THREE])).values()) == [
        der(each) for each in (ONE, TWO, THREE)
    ]


def test_an_odd_entry_is_kept_as_it_is() -> None:
    """A private key, say: nothing of an entry is looked at."""
    odd = struct.pack(">III", 0xFEEDFEED, 2, 1) + b"\0\0\0\1 who knows"
    sealed = odd + hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + odd).digest()
    assert add_certificates(sealed, [ONE])[12:].startswith(b"\0\0\0\1 who knows")


@pytest.mark.parametrize("encryption", [NoEncryption(), BestAvailableEncryption(b"changeit")])
def test_pkcs12_becomes_jks(encryption: NoEncryption | BestAvailableEncryption) -> None:
    theirs = serialize_java_truststore([PKCS12Certificate(x509.load_pem_x509_certificate(ONE), b"one")], encryption)
    assert list(read(add_certificates(theirs, [TWO])).values()) == [der(ONE), der(TWO)]


def test_pkcs12_without_any_password(tmp_path: Path) -> None:
    """As newer builds of OpenJDK ship it: neither encrypted nor with a digest."""
    (tmp_path / "one.pem").write_bytes(ONE)
    command = "openssl pkcs12 -export -nokeys -in one.pem -certpbe NONE -keypbe NONE -nomac -passout pass: -out store"
    subprocess.run(command.split(), cwd=tmp_path, check=True, timeout=20)
    assert der(ONE) in read(add_certificates((tmp_path / "store").read_bytes(), [TWO])).values()


OTHER_PASSWORD = serialize_java_truststore(
    [PKCS12Certificate(x509.load_pem_x509_certificate(ONE), None)], BestAvailableEncryption(b"other")
)


@pytest.mark.parametrize(
    "store",
    [
        *(b"x", b"0", b"\xfe\xed\xfe\xed", b"-----BEGIN CERTIFICATE-----", bytes(40)),
        *(add_certificates(b"", [ONE])[:-1] + b"x", OTHER_PASSWORD),
    ],
)
def test_what_cannot_be_read_is_left_alone(store: bytes) -> None:
    with pytest.raises(BadKeystore):
        add_certificates(store, [TWO])
    assert trust_stores.java_files({"opt/jdk/lib/security/cacerts": store}, [TWO]) == {}


def test_browsers_get_the_certificate_by_policy() -> None:
    files = trust_stores.browser_files(ONE, "/ca.crt")
    chromium = json.loads(files["etc/chromium/policies/managed/hutch.json"])
    assert base64.b64decode(chromium["CACertificates"][0]) == der(ONE)
    assert json.loads(files[trust_stores.FIREFOX])["policies"]["Certificates"]["Install"] == ["/ca.crt"]


def test_an_images_own_environment_wins() -> None:
    files = trust_stores.account_files(b"SSL_CERT_FILE=/own.pem\n", trust_env())
    assert files["etc/environment"].endswith(b"\nSSL_CERT_FILE=/own.pem\n")
    assert b'REQUESTS_CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt"\n' in files["etc/environment"]
    assert b"REQUESTS_CA_BUNDLE" in files["etc/sudoers.d/hutch"]
