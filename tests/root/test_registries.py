"""The process that asks package indexes, with real servers: what it finds, where it must not go, what it may not be.

Must not need the network or name a registry. The servers are on a loopback address, which only private names may lead to.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxy.registries.answers import Answer
from proxy.registries.ask import MAX_BODY, SECONDS
from proxy.registries.index import Index, Kind
from rootfs.image import Image, ImageConfig
from rootfs.store import Store
from rootfs.system_layer import File, make_system_layer
from sandbox.core.images import Base
from sandbox.core.registries import Registries
from sandbox.host.index_questions import IndexQuestions
from tests.support.certificates import Authority
from tests.support.tasks import wait_for

UID = 64_321
NAMES = ["private.test", "*.private.test", "loop.test"]
HOSTS = """
127.0.0.1 private.test pip.private.test files.private.test npm.private.test apt.private.test loop.test wrong.private.invalid
169.254.169.254 metadata.private.test
0.0.0.0 nowhere.private.test
127.0.0.1 mixed.test
198.51.100.9 mixed.test
"""


class Handler(BaseHTTPRequestHandler):
    """Answers by host and path from the table of its server; {port} and {web} stand for its two servers' ports."""

    server: Server

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        host = self.headers["Host"].partition(":")[0]
        self.server.lab.seen.append((self.command, host, self.path))
        answer = self.server.lab.answers.get(f"{host}{self.path}", "404")
        if answer == "silence":
            self.server.lab.end.wait(30)
        elif answer == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" " * MAX_BODY)
        elif answer == "garbage":
            self.wfile.write(b"\x16\x03\x01 what?\r\n\r\n" * 100)
        elif answer == "many fields":
            self.send_response(200)
            for number in range(10_000):
                self.send_header(f"x-{number}", "y" * 100)
            self.end_headers()
        elif answer.startswith("to "):
            self.send_response(302)
            self.send_header("Location", self.filled(answer.removeprefix("to ")))
            self.end_headers()
        elif answer.isdigit():
            self.send_error(int(answer))
        else:
            self.send_response(200)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(self.filled(answer).encode())

    do_HEAD = do_GET

    def filled(self, text: str) -> str:
        return text.replace("{port}", str(self.server.lab.port)).replace("{web}", str(self.server.lab.web))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    lab: Lab
    context: ssl.SSLContext | None = None

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        with request:
            super().finish_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None: ...  # clients go away as they like


class Lab:
    """`port`: of the server with TLS. `web`: of the one without."""

    def __init__(self, directory: Path) -> None:
        self.answers: dict[str, str] = {}
        self.seen: list[tuple[str, str, str]] = []
        self.end = threading.Event()
        authority = Authority("mirrors")
        (directory / "server.pem").write_bytes(authority.server(NAMES))
        (directory / "trust.pem").write_bytes(authority.pem)
        (directory / "hosts").write_text(HOSTS)
        for path in (directory, *directory.iterdir()):
            path.chmod(0o755)
        self.questions = IndexQuestions(UID, directory / "hosts", ("private.test",), directory / "trust.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        self.servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server in self.servers:
            server.lab = self
        self.servers[0].context = context
        self.port, self.web = (server.server_port for server in self.servers)
        self.threads = [threading.Thread(target=server.serve_forever, args=(0.1,)) for server in self.servers]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.end.set()
        for server, thread in zip(self.servers, self.threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(10)

    def ask(self, *indexes: tuple[Kind, str]) -> list[Answer]:
        filled = [
            Index(kind, url.replace("{port}", str(self.port)).replace("{web}", str(self.web))) for kind, url in indexes
        ]
        return asyncio.run(self.questions(filled))

    def ask_one(self, kind: Kind, url: str) -> Answer:
        return self.ask((kind, url))[0]


@pytest.fixture
def lab() -> Iterator[Lab]:
    # Not pytest's tmp_path: strangers can't enter that, and the process that asks is one.
    with tempfile.TemporaryDirectory(prefix="hutch-registries-") as directory:
        made = Lab(Path(directory))
        try:
            yield made
        finally:
            made.close()


PIP, NPM = ("pip", "https://pip.private.test:{port}/simple/"), ("npm", "https://npm.private.test:{port}/npm/")
MIRROR = {
    "pip.private.test/simple/pip/": '<a href="https://files.private.test:{port}/pip-1.whl"><a href="../../f/pip-2.whl">',
    "pip.private.test/f/pip-2.whl": "to https://private.test:{port}/store/2",
    "private.test/store/2": "a file",
    "npm.private.test/npm/npm": '{"versions":{"1.0.0":{"dist":{"tarball":"https://files.private.test:{port}/npm-1.tgz"}}}}',
    "files.private.test/npm-1.tgz": "a file",
    "apt.private.test/debian/dists/a/InRelease": "to http://files.private.test:{web}/x",
    "files.private.test/x": "404",
    "apt.private.test/mirrors.txt": "http://a.test/debian\nhttps://b.test:8443/debian\n",
    "private.test/wheels.html": '{"files": [{"url": "https://files.private.test:{port}/w.whl"}]}',
}  # fmt: skip


def test_a_private_mirror_says_where_its_downloads_are(lab: Lab) -> None:
    lab.answers = MIRROR
    port, web = lab.port, lab.web
    assert lab.ask(
        PIP, NPM, ("apt", "http://apt.private.test:{web}/debian/dists/a/InRelease"),
        ("mirrors", "http://apt.private.test:{web}/mirrors.txt"), ("links", "https://private.test:{port}/wheels.html"),
    ) == [
        Answer((f"pip.private.test:{port}", f"files.private.test:{port}", f"private.test:{port}")),
        Answer((f"npm.private.test:{port}", f"files.private.test:{port}")),
        Answer((f"apt.private.test:{web}", f"files.private.test:{web}")),
        Answer((f"apt.private.test:{web}", "a.test", "b.test:8443")),
        Answer((f"private.test:{port}", f"files.private.test:{port}")),
    ]  # fmt: skip


def test_an_image_with_a_private_mirror_needs_no_setting(lab: Lab, tmp_path: Path) -> None:
    lab.answers = MIRROR
    store = Store(tmp_path)
    conf = f"[global]\nindex-url = https://pip.private.test:{lab.port}/simple\n"
    layer = make_system_layer(store, {"etc/pip.conf": File(conf.encode())})
    base = Base(Image("x", (layer,), ImageConfig(), "", 0, "test"), (layer,), has_bash=True)
    env = {"NPM_CONFIG_REGISTRY": f"https://npm.private.test:{lab.port}/npm/"}

    async def hosts() -> tuple[str, ...]:
        registries = Registries(store, tmp_path / "registries.json", lab.questions)
        found = await registries.of(base, env)
        await registries.close()
        return found

    wanted = {
        f"{name}:{lab.port}" for name in ("pip.private.test", "npm.private.test", "files.private.test", "private.test")
    }
    assert wanted <= set(asyncio.run(hosts()))


REFUSED = {
    "loop.test": "resolves to 127.0.0.1 (",
    "mixed.test": "resolves to 127.0.0.1 (",
    "nowhere.private.test": "0.0.0.0 (unspecified)",
    "metadata.private.test": "169.254.169.254 (link-local)",
    "private.test.invalid": "can't be resolved",
}


def test_no_index_leads_where_a_sandbox_may_not_go(lab: Lab) -> None:
    for scheme in ("http", "https"):
        answers = lab.ask(*(("pip", f"{scheme}://{name}:{{web}}/") for name in REFUSED))
        assert [answer.hosts for answer in answers] == [()] * len(REFUSED)
        for answer, why in zip(answers, REFUSED.values(), strict=True):
            assert why in answer.error
    assert lab.seen == []


@pytest.mark.parametrize(
    "to", [f"http://{name}:{{web}}/x" for name in REFUSED] + ["http://127.0.0.1:{web}/x", "file:///etc/passwd", ""]
)
def test_no_redirect_leads_there_either(lab: Lab, to: str) -> None:
    lab.answers = {"apt.private.test/dists/a/InRelease": f"to {to}", "pip.private.test/simple/pip/": f"to {to}"}
    for answer in lab.ask(("apt", "http://apt.private.test:{web}/dists/a/InRelease"), PIP):
        assert answer.hosts == ()
        assert answer.error
    assert {host for _, host, _ in lab.seen} == {"apt.private.test", "pip.private.test"}


def test_a_file_that_is_elsewhere_costs_that_place_only(lab: Lab) -> None:
    lab.answers = {
        "pip.private.test/simple/pip/": '<a href="https://files.private.test:{port}/p.whl">',
        "files.private.test/p.whl": "to http://loop.test:{web}/x",
    }
    assert lab.ask_one(*PIP) == Answer((f"pip.private.test:{lab.port}", f"files.private.test:{lab.port}"))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("404", "status 404"),
        ("503", "status 503"),
        ("garbage", "HTTP"),
        ("many fields", "HTTP"),
        ("to https://pip.private.test:{port}/simple/pip/", "redirects lead nowhere"),
    ],
)
def test_an_index_that_fails_says_why(lab: Lab, answer: str, why: str) -> None:
    lab.answers = {"pip.private.test/simple/pip/": answer}
    found = lab.ask_one(*PIP)
    assert found.hosts == ()
    assert why in found.error


def test_a_certificate_that_nobody_trusts(lab: Lab) -> None:
    answer = lab.ask_one("pip", "https://apt.private.test:{web}/")
    assert answer.error  # no TLS there at all
    lab.questions = IndexQuestions(UID, lab.questions.hosts_file, ("invalid",), lab.questions.trust)
    assert "certificate is not trusted" in lab.ask_one("pip", "https://wrong.private.invalid:{port}/").error
    assert lab.seen == []


def test_what_never_ends_is_read_no_further_than_needed(lab: Lab) -> None:
    lab.answers = {"pip.private.test/simple/pip/": "endless"}
    started = time.monotonic()
    assert lab.ask_one(*PIP) == Answer((f"pip.private.test:{lab.port}",))
    assert time.monotonic() - started < SECONDS / 2


def test_silence_costs_ten_seconds_and_nothing_of_the_others(lab: Lab) -> None:
    lab.answers = MIRROR | {"npm.private.test/npm/npm": "silence"}
    started = time.monotonic()
    pip, npm = lab.ask(PIP, NPM)
    assert time.monotonic() - started < SECONDS + 4
    assert pip.hosts
    assert npm == Answer((), f"it did not answer within {SECONDS:g} s")


def test_it_is_nobody_and_may_nothing(lab: Lab) -> None:
    lab.answers = {"pip.private.test/simple/pip/": "silence"}
    asking = threading.Thread(target=lab.ask_one, args=PIP)
    asking.start()
    found = wait_for(lambda: (lab.seen and processes(UID)) or None, "the process that asks", 10)
    status = dict(line.split(":\t", 1) for line in (found[0] / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    limits = (found[0] / "limits").read_text()
    assert (
        " ".join(next(line for line in limits.splitlines() if line.startswith("Max file size")).split()[3:5]) == "0 0"
    )
    assert b"SSH_AUTH_SOCK" not in (found[0] / "environ").read_bytes()
    lab.end.set()
    asking.join(20)
    assert processes(UID) == []


def processes(uid: int) -> list[Path]:
    """Python processes of a user."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid and b"proxy.registries" in (path / "cmdline").read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def test_it_refuses_to_be_root() -> None:
    command = [sys.executable, "-I", "-m", "proxy.registries"]
    done = subprocess.run(command, input=b"{}", capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "root is refused" in json.loads(done.stdout)["error"]["message"]
