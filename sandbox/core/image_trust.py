"""What makes the programs of an image trust the filter: what the image has is read as data, and proxy/ says what to lay over it.

Must not run anything of the image, nor take away what its author trusted.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy import trust, trust_stores
from rootfs.errors import ImageError
from rootfs.image import Image
from rootfs.read_image import names_in_image, read_from_image, real_path
from rootfs.store import Store
from rootfs.system_layer import Content, Link
from sandbox.core import environment

_JAVA_TRUST: Final = Path(__file__).with_name("java_trust.sh")


def files(store: Store, image: Image, host_bundle: bytes, ca_pem: bytes) -> dict[str, Content]:
    """The files of the trust layer: path relative to the root -> content."""
    own_bundle = read_from_image(store, image, trust.BUNDLE) or b""
    system = trust.trust_files(own_bundle, host_bundle, ca_pem)
    own = set(trust.certificates(own_bundle))
    added = [certificate for certificate in trust.certificates(_bytes(system[trust.BUNDLE])) if certificate not in own]
    browsers = trust_stores.browser_files(trust.ca_certificate(ca_pem), f"/{trust.CA_FILE}")
    accounts = trust_stores.account_files(
        read_from_image(store, image, trust_stores.ENVIRONMENT) or b"", trust.trust_env()
    )
    return {
        **{path: Link(it.target) if isinstance(it, trust.Link) else it for path, it in system.items()},
        **{path: it for path, it in browsers.items() if read_from_image(store, image, path) is None},
        **trust_stores.java_files(_java_stores(store, image), added),
        **accounts,
        environment.JAVA_TRUST: _JAVA_TRUST.read_bytes(),
    }


def _java_stores(store: Store, image: Image) -> dict[str, bytes]:
    """The keystores of the image's Java machines by their real paths: several machines may share one."""
    homes = _homes(store, image)
    if declared := image.config.env.get("JAVA_HOME"):
        homes.append(declared)
    candidates = [f"{home}/{name}" for home in homes for name in trust_stores.JAVA_STORES_IN_HOME]
    found: dict[str, bytes] = {}
    for candidate in (trust_stores.JAVA_STORE, *candidates):
        with suppress(ImageError):  # a link that leads round in a circle, or something large, is no keystore
            path = real_path(store, image, candidate)
            if path is not None and (content := read_from_image(store, image, path)):
                found[path] = content
    return found


def _homes(store: Store, image: Image) -> list[str]:
    return [f"{parent}/{name}" for parent in trust_stores.JAVA_PARENTS for name in names_in_image(store, image, parent)]


def _bytes(content: bytes | trust.Link) -> bytes:
    assert isinstance(content, bytes)
    return content
