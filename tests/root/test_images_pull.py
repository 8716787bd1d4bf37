"""Images out of a real registry, by skopeo: what arrives, what is refused, and a registry that breaks off."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from rootfs.errors import ImageError
from rootfs.pull_job import _login, pull
from rootfs.store import Store
from tests.support.archives import Layer, docker_save, member, small_root, tar
from tests.support.certificates import Authority
from tests.support.images import quiet

CONFIG = {"Env": ["PATH=/bin", "MADE_BY=registry"], "WorkingDir": "/srv", "Entrypoint": ["tini"]}
BULK = os.urandom(3_000_000)


@dataclass(frozen=True)
class Registry:
    """A registry on this host; `push` puts an image there. `trust`: a file with its authority."""

    port: int
    trust: Path
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SSL_CERT_FILE": str(self.trust)}

    def push(self, name: str, layers: list[Layer]) -> None:
        archive = self.directory / "pushed.tar"
        archive.write_bytes(docker_save(layers, CONFIG))
        command = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            f"docker-archive:{archive}",
            f"docker://localhost:{self.port}/{name}",
        ]
        subprocess.run(command, check=True, timeout=60, capture_output=True, env=self.environment)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    authority = Authority("a registry's")
    (directory / "trust.pem").write_bytes(authority.pem)
    (directory / "server.pem").write_bytes(authority.server(["localhost"]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "config.json").write_text(json.dumps({  # YAML, too
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "tls": dict.fromkeys(("certificate", "key"), str(directory / "server.pem"))},
    }))  # fmt: skip
    with subprocess.Popen(
        ["docker-registry", "serve", directory / "config.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                    break
                assert process.poll() is None, "the registry has ended"
                time.sleep(0.05)
            it = Registry(port, directory / "trust.pem", directory)
            it.push("team/app:1", [Layer.of(small_root(), "gzip"), Layer.of(tar(member(b"srv/file", b"two")), "gzip")])
            it.push("bulk:1", [Layer.of(small_root(), "gzip"), Layer.of(tar(member(b"bulk", BULK)))])
            yield it
        finally:
            process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def trusted(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("SSL_CERT_FILE", str(registry.trust))
    return registry


def nothing_is_left(store: Store) -> bool:
    return store.list_images() == [] and list((store.root / "staging").iterdir()) == []


def test_an_image_comes_with_its_config_and_shares_layers(store: Store, trusted: Registry) -> None:
    image = pull(store, f"localhost:{trusted.port}/team/app:1", "app", quiet)
    assert image.config.env == {"PATH": "/bin", "MADE_BY": "registry"}
    assert (image.config.workdir, image.config.entrypoint) == ("/srv", ("tini",))
    assert (store.layer_path(image.layers[-1]) / "srv/file").read_text() == "two"
    assert [one.name for one in store.list_images()] == ["app"]
    again = pull(store, f"localhost:{trusted.port}/bulk:1", "bulk", quiet, entrypoint=False)
    assert (again.config.workdir, again.config.entrypoint) == ("/srv", ())
    assert (store.layer_path(again.layers[-1]) / "bulk").read_bytes() == BULK
    assert set(image.layers) & set(again.layers), "the layer that both have is stored once"
    assert list((store.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("localhost:{port}/team/app:2", "manifest unknown"),
        ("localhost:{port}/nothing", "unknown"),
        ("localhost:1/x", "connection refused"),
        ("docker://x", "no image's reference"),
        ("-h", "no image's reference"),
        ("x y", "no image's reference"),
        ("../../etc/passwd", "no image's reference"),
        ("", "no image's reference"),
    ],
)
def test_what_can_not_be_had_is_told(store: Store, trusted: Registry, reference: str, said: str) -> None:
    with pytest.raises(ImageError, match="cannot pull") as caught:
        pull(store, reference.format(port=trusted.port), "x", quiet)
    assert said in str(caught.value)
    assert nothing_is_left(store)


def test_a_registry_that_nobody_vouches_for_is_refused(store: Store, registry: Registry) -> None:
    with pytest.raises(ImageError, match="certificate"):
        pull(store, f"localhost:{registry.port}/team/app:1", "x", quiet)
    assert nothing_is_left(store)


@contextmanager
def broken_wire(port: int, limit: int) -> Iterator[int]:
    """A way to the registry that is cut after so many bytes of its answers, or, with 0, says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def pump(source: socket.socket, target: socket.socket, left: int) -> None:
            with suppress(OSError):
                while left > 0 and (data := source.recv(min(left, 65536))):
                    target.sendall(data)
                    left -= len(data)
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    near, _ = listener.accept()
                    if limit == 0:
                        silent.append(near)
                        continue
                    far = socket.create_connection(("127.0.0.1", port), 5)
                    threading.Thread(target=pump, args=(near, far, 1 << 40), daemon=True).start()
                    threading.Thread(target=pump, args=(far, near, limit), daemon=True).start()

        silent: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            with suppress(OSError):
                socket.create_connection(listener.getsockname(), 5).close()
            thread.join(10)
            for each in silent:
                each.close()


def test_a_registry_that_breaks_off_leaves_nothing(store: Store, trusted: Registry) -> None:
    with broken_wire(trusted.port, 500_000) as port, pytest.raises(ImageError, match="cannot pull"):
        pull(store, f"localhost:{port}/bulk:1", "x", quiet)
    assert nothing_is_left(store)


def test_a_registry_that_says_nothing_is_given_up(
    store: Store, trusted: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootfs.pull_job._STUCK", 3.0)
    started = time.monotonic()
    with broken_wire(trusted.port, 0) as port, pytest.raises(ImageError, match="nothing came for 3 s"):
        pull(store, f"localhost:{port}/bulk:1", "x", quiet)
    assert time.monotonic() - started < 20
    assert nothing_is_left(store)


def test_skopeo_gets_the_login_of_one_registry_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "a.example": {"auth": "YQ=="},
        "b.example": {"auth": "Yg=="},
        "https://index.docker.io/v1/": {"auth": "Yw=="},
    }
    (tmp_path / "auth.json").write_text(json.dumps({"auths": known, "credHelpers": {"x": "y"}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    for reference, hosts in (
        ("a.example/x:1", ["a.example"]),
        ("c.example/x", []),
        ("python:3", ["https://index.docker.io/v1/"]),
        ("team/python", ["https://index.docker.io/v1/"]),
    ):
        fd = _login(reference)
        with open(fd, "rb") as file:
            file.seek(0)
            assert list(json.load(file)["auths"]) == hosts


def test_the_job_and_what_it_starts_end_together(store: Store, trusted: Registry) -> None:
    with (
        broken_wire(trusted.port, 0) as port,
        subprocess.Popen(
            [sys.executable, "-I", "-m", "rootfs.pull_job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as job,
    ):
        assert job.stdin is not None
        assert job.stdout is not None
        request = {"state": str(store.root), "reference": f"localhost:{port}/bulk:1", "name": "x"}
        job.stdin.write(json.dumps(request).encode() + b"\n")
        job.stdin.close()
        assert b"asking for" in job.stdout.readline()
        job.kill()
    # The leak check, which every test has, finds a skopeo that is left.
