"""What is laid over an image to make it trust the filter, and how images are read for it: as data, through links and layers.

Must not need root, a JDK or a browser.
"""

from __future__ import annotations

import pytest

from proxy import trust, trust_stores
from proxy.keystore import add_certificates
from rootfs.image import Image, ImageConfig
from rootfs.read_image import names_in_image, real_path
from rootfs.store import Store
from rootfs.system_layer import Content, Link, make_system_layer
from sandbox.core import image_trust

CA = trust.make_ca()
HOST, IMAGES = trust.ca_certificate(trust.make_ca()), trust.ca_certificate(trust.make_ca())
STORE = add_certificates(b"", [IMAGES])
DEBIAN, OWN = "etc/ssl/certs/java/cacerts", "opt/jdk/lib/security/cacerts"
BELOW: dict[str, Content] = {
    DEBIAN: STORE,
    "usr/lib/jvm/java-21/lib/security/cacerts": Link("/etc/ssl/certs/java/cacerts"),
    "usr/lib/jvm/default": Link("java-21"),
    "usr/lib/jvm/loop": Link("loop/.."),
    "usr/lib/jvm/escape/lib/security/cacerts": Link("../../../../../../../../../../etc/shadow"),
    "usr/lib/jvm/file": b"no directory",
    OWN: STORE,
    "opt/java8/jre/lib/security/cacerts": STORE,
    "srv/jdk/lib/security/cacerts": STORE,
    "etc/environment": b"OWN=1\n",
    trust_stores.FIREFOX: b"{}",
    trust.BUNDLE: IMAGES,
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def image(store: Store) -> Image:
    layers = make_system_layer(store, BELOW), make_system_layer(store, {"usr/lib/jvm/upper/x": b"", "srv/top": b""})
    config = ImageConfig(env={"JAVA_HOME": "/srv/jdk"})
    return Image("java", layers, config, "2026-01-01T00:00:00Z", 1, "test")


@pytest.fixture(scope="module")
def files(store: Store, image: Image) -> dict[str, Content]:
    return image_trust.files(store, image, HOST, CA)


@pytest.mark.parametrize("path", [DEBIAN, OWN, "opt/java8/jre/lib/security/cacerts", "srv/jdk/lib/security/cacerts"])
def test_every_java_machine_gets_the_certificates(files: dict[str, Content], path: str) -> None:
    assert files[path] == add_certificates(STORE, [HOST, *trust.certificates(trust.ca_certificate(CA))])


def test_links_stay_links(files: dict[str, Content]) -> None:
    """A file in a link's place would cut Debian's store off from its updates; one in a linked directory would hide that."""
    assert not [path for path in files if path.startswith("usr/lib/jvm/")]


def test_an_images_own_settings_stay(files: dict[str, Content]) -> None:
    environment = files["etc/environment"]
    assert isinstance(environment, bytes)
    assert environment.endswith(b"OWN=1\n")
    assert trust_stores.FIREFOX not in files
    assert "etc/chromium/policies/managed/hutch.json" in files


def test_an_image_without_any_of_it(store: Store) -> None:
    bare = Image("bare", (make_system_layer(store, {"bin/sh": b""}),), ImageConfig(), "2026-01-01T00:00:00Z", 1, "test")
    found = image_trust.files(store, bare, HOST, CA)
    assert DEBIAN not in found
    assert found[trust.BUNDLE] == b"".join(trust.certificates(HOST + trust.ca_certificate(CA)))


def test_real_paths(store: Store, image: Image) -> None:
    assert real_path(store, image, "usr/lib/jvm/default/lib/security/cacerts") == DEBIAN
    assert real_path(store, image, "/usr/lib/jvm/default/") == "usr/lib/jvm/java-21"
    for nowhere in ("usr/lib/jvm/escape/lib/security/cacerts", "nothing", "usr/lib/jvm/file/x"):
        assert real_path(store, image, nowhere) is None
    assert real_path(store, image, "") == real_path(store, image, "../..") == ""


def test_names_are_those_of_all_layers(store: Store, image: Image) -> None:
    assert names_in_image(store, image, "usr/lib/jvm") == ["default", "escape", "file", "java-21", "loop", "upper"]
    assert names_in_image(store, image, "srv") == ["jdk", "top"]
    assert names_in_image(store, image, "usr/lib/jvm/file") == names_in_image(store, image, "nothing") == []
