"""Whom a sandbox trusts: the installation's own CA, and the files and variables that make programs inside accept it.

Pure apart from the clock and the random numbers of a new CA. It writes nothing: the caller lays the files over an
image. The CA's key belongs in the state directory and, by the control socket, in the filter's memory; nowhere else.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

YEARS = 10
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# What programs of other distributions open. All hold the same merged bundle.
OTHER_BUNDLES = ("etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/cert.pem")
LOCAL = "usr/local/share/ca-certificates"
# Where other distributions' tools (update-ca-trust of Fedora and Arch, SUSE's update-ca-certificates) look for additions.
ANCHORS = ("etc/pki/ca-trust/source/anchors", "etc/ca-certificates/trust-source/anchors", "etc/pki/trust/anchors")
CA_FILE = f"{LOCAL}/hutch.crt"  # the CA alone

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to lay over an image."""

    target: str


def make_ca() -> bytes:
    """A new CA: its key, then its certificate, in PEM. Elliptic, since each inspected host costs a signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Random, so that programs which trust two installations don't take one for the other.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hutch filter CA {secrets.token_hex(8)}")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    uses = {
        "digital_signature": True,  # mitmproxy's server certificates use the same key
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": True,
        "crl_sign": True,
        "encipher_only": False,
        "decipher_only": False,
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**uses), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def ca_certificate(ca_pem: bytes) -> bytes:
    """The certificate alone, in PEM, of what make_ca returned: the part that sandboxes may see."""
    return x509.load_pem_x509_certificate(ca_pem).public_bytes(serialization.Encoding.PEM)


def subject_hash(certificate_pem: bytes) -> str:
    """What `openssl x509 -hash` prints, by which OpenSSL finds a certificate in a directory (as <hash>.0).

    SHA-1 over the name in canonical form (UTF-8, lower case, single spaces) without its outer header; the first four
    bytes, little-endian. Good for names of common names only, like the CA's.
    """
    subject = x509.load_pem_x509_certificate(certificate_pem).subject
    canonical = x509.Name(
        [x509.NameAttribute(part.oid, " ".join(str(part.value).lower().split())) for part in subject]
    ).public_bytes()
    header = 2 if canonical[1] < 0x80 else 2 + (canonical[1] & 0x7F)
    return f"{int.from_bytes(hashlib.sha1(canonical[header:], usedforsecurity=False).digest()[:4], 'little'):08x}"


def certificates(bundle: bytes) -> list[bytes]:
    """The certificates of a bundle as PEM blocks, each once, without the comments between them.

    A block that isn't base64 is left out: OpenSSL would stop there and lose everything behind it.
    """
    found: dict[bytes, None] = {}
    for match in _BLOCK.finditer(bundle):
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except ValueError:
            continue
        found[b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"] = None
    return list(found)


def trust_files(image_bundle: bytes, host_bundle: bytes, ca_pem: bytes) -> dict[str, bytes | Link]:
    """The files to lay over an image: path (relative to its root) → content or link.

    `image_bundle` is the image's own etc/ssl/certs/ca-certificates.crt (empty if it has none), `host_bundle` the
    host's. The host's is part of it because spliced connections reach the real servers, or the TLS proxy of a
    company between here and there, which the host trusts already.
    """
    ca = ca_certificate(ca_pem)
    image, host = certificates(image_bundle), certificates(host_bundle)
    known, merged = set(image), b"".join(dict.fromkeys([*image, *host, *certificates(ca)]))
    files: dict[str, bytes | Link] = dict.fromkeys((BUNDLE, *OTHER_BUNDLES), merged)
    # As update-ca-certificates leaves it: that makes the bundle anew out of these, when setup installs packages, and
    # Java's packages take what is linked into their keystore.
    extra = (block for block in host if block not in known)
    for name, content in {"hutch": ca, **{f"hutch-host-{n}": block for n, block in enumerate(extra, 1)}}.items():
        files[f"{LOCAL}/{name}.crt"] = content
        files[f"etc/ssl/certs/{name}.pem"] = Link(f"/{LOCAL}/{name}.crt")
    files |= dict.fromkeys((f"{directory}/hutch.pem" for directory in ANCHORS), ca)
    files[f"etc/ssl/certs/{subject_hash(ca)}.0"] = Link("hutch.pem")
    return files


def trust_env() -> dict[str, str]:
    """Variables for programs that bring their own certificates, and would not look at the system's."""
    names = (
        "AWS_CA_BUNDLE",
        "BUNDLE_SSL_CA_CERT",
        "CARGO_HTTP_CAINFO",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "CURL_CA_BUNDLE",
        "DENO_CERT",
        "GIT_SSL_CAINFO",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "HEX_CACERTS_PATH",
        "HTTPLIB2_CA_CERTS",
        "NIX_SSL_CERT_FILE",
        "NODE_EXTRA_CA_CERTS",
        "PERL_LWP_SSL_CA_FILE",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    )
    return dict.fromkeys(names, f"/{BUNDLE}")
