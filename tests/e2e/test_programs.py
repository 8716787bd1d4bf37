"""Real programs through the filter, unchanged: in a sandbox, with TLS opened, and no proxy variable but where one is tested.

What Debian, the Python and the npm package index have is installed by one setup script, through the filter too, and kept as a
snapshot. Must not call a program's own success a proof: what it fetched has to be in the network record, with its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import registries, tasks
from tests.support.daemon import Daemon
from tests.support.internet import Internet, internet

HERE = Path(__file__).with_name("programs")
INSIDE = "/opt/programs"
SETUP = (HERE / "setup.sh").read_text()
SETUP_SECONDS = 500.0
NETWORK = {"access": "limited", "preset": "package-managers", "rules": ["up.test", "tcp://git.up.test:22"]}
INTERPRETERS = {
    ".py": "python3", ".mjs": "node", ".cjs": "NODE_PATH=$(npm root -g) node", ".java": "java", ".rb": "ruby",
    ".php": "php", ".sh": "bash -eu",
}  # fmt: skip
# One request each, to /hello/NAME, and the version of HTTP that it is known to speak. `env -i` takes the variables away: what is
# left is the system's store.
REQUESTS = {
    "curl": ("curl -sS $URL", "HTTP/2 curl"),
    "curl_http1": ("curl -sS --http1.1 $URL", "HTTP/1.1 curl"),
    "curl_bare": ("env -i curl -sS $URL", "HTTP/2 curl"),
    "wget": ("wget -qO- $URL", "HTTP/1.1 Wget"),
    "wget_bare": ("env -i wget -qO- $URL", "HTTP/1.1 Wget"),
    "sudo": (
        """sudo /opt/python/bin/python3 -c "import requests; print(requests.get('$URL').text)" """,
        "HTTP/1.1 python-requests",
    ),
    "su": ('su - -c "curl -sS $URL"', "HTTP/2 curl"),
    "python_urllib": (None, "HTTP/1.1 Python-urllib"),
    "python_requests": (None, "HTTP/1.1 python-requests"),
    "python_httpx": (None, "HTTP/1.1 python-httpx"),
    "python_httpx_http2": (None, "HTTP/2 python-httpx"),
    "python_aiohttp": (None, "HTTP/1.1 Python"),
    "node_fetch": (None, "HTTP/1.1 node"),
    "node_https": (None, "HTTP/1.1 node"),
    "node_http2": (None, "HTTP/2 node"),
    "java": (None, "HTTP/2 Java-http-client"),
    "java_unpacked": (f"/opt/unpacked/bin/java {INSIDE}/java.java", "HTTP/2 Java-http-client"),
    "ruby": (None, "HTTP/1.1 Ruby"),
    "php_curl": (None, "HTTP/2 php"),
    "php_streams": (None, "HTTP/1.1 php"),
}

PROXY = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://proxy:8080") | {
    "JAVA_TOOL_OPTIONS": "-Dhttps.proxyHost=proxy -Dhttps.proxyPort=8080"
}
# Those that take a proxy from variables.
WITH_PROXY = {
    *(
        "curl",
        "curl_http1",
        "wget",
        "python_urllib",
        "python_requests",
        "python_httpx",
        "python_httpx_http2",
        "java",
        "ruby",
        "php_curl",
    ),
    *("go_modules", "bundler", "composer", "git_https", "websocket_python", "grpc_calls", "resume"),
    *("pip", "uv", "npm", "pnpm", "yarn", "apt"),
}


@dataclass(frozen=True)
class Place:
    """A running task whose agent may reach up.test and what is below it, all inspected."""

    daemon: Daemon
    task: str

    def sh(self, script: str, seconds: float = 60, **env: str) -> tasks.Done:
        words = ["timeout", str(seconds), "bash", "-euc", script]
        return tasks.execute(self.daemon, self.task, *words, env=env)

    def command(self, name: str) -> str:
        """The program of that name, by its interpreter."""
        [path] = HERE.glob(f"{name}.*")
        return f"{INTERPRETERS[path.suffix]} {INSIDE}/{path.name}"

    def was_inspected(self, host: str, path: str) -> None:
        """The record shows the path, which only who opened the TLS could see."""
        tasks.wait_for(lambda: (host, path) in self.paths(), f"the record of {host}{path}", 10)

    def paths(self) -> list[tuple[str, str]]:
        """Name and path of each allowed request that the record has so far."""
        records = [event for event in tasks.events(self.daemon, self.task) if event["type"] == "network"]
        agent = [record for record in records if record["phase"] == "agent" and record["decision"] == "allow"]
        return [(record["name"], record["path"] or "") for record in agent if not record["reason"]]


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with internet() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(state: Path, base_image: str, net: Internet) -> Iterator[Daemon]:
    """Another one than the other tests have: it knows the names of `net`, and trusts its servers."""
    with Daemon(state, net.environment, net.options) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def place(daemon: Daemon) -> Iterator[Place]:
    with _place(daemon) as found:
        yield found


@pytest.fixture(scope="module")
def proxied(daemon: Daemon) -> Iterator[Place]:
    """The same where no name is resolved but that of the explicit proxy, so that who gets through was given it."""
    with _place(daemon) as found:
        assert (
            found.sh("echo nameserver 127.0.0.9 >/etc/resolv.conf; getent hosts up.test || grep proxy /etc/hosts").code
            == 0
        )
        yield found


@contextmanager
def _place(daemon: Daemon) -> Iterator[Place]:
    task = tasks.submit(daemon, *tasks.sh("echo at-work; exec sleep 900"), setup=SETUP, network={"agent": NETWORK})
    try:
        tasks.wait_for_output(daemon, task, b"at-work\n", seconds=SETUP_SECONDS)
        unpacked = tasks.execute(daemon, task, *tasks.sh(f"mkdir {INSIDE} && tar x -C {INSIDE}"), stdin=_programs())
        assert unpacked.code == 0, unpacked
        yield Place(daemon, task)
    finally:
        tasks.cancel(daemon, task)


def _programs() -> bytes:
    return registries.tarred({path.name: path.read_bytes() for path in HERE.iterdir()})


@pytest.mark.timeout(SETUP_SECONDS + 60)
def test_setup_installed_everything(place: Place) -> None:
    """From the package indexes, through the filter; the test of its own for a time limit of its own."""
    assert place.sh("uv --version; yarn --version; pnpm --version; java -version; mvn -version; go version").code == 0


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request(place: Place, name: str) -> None:
    check_request(place, name)


@pytest.mark.parametrize("name", sorted(WITH_PROXY & REQUESTS.keys()))
def test_a_request_by_the_explicit_proxy(proxied: Place, name: str) -> None:
    check_request(proxied, name, **PROXY)


def check_request(place: Place, name: str, **env: str) -> None:
    command, version = REQUESTS[name]
    done = place.sh(command or place.command(name), URL=f"https://up.test/hello/{name}", **env)
    assert done.text.splitlines()[:1] == [f"hello up.test {version}"], done
    place.was_inspected("up.test", f"/hello/{name}")


# What a program prints when everything went well; what it must have fetched.
PROGRAMS = {
    "go_modules": (
        'package hello\n\nfunc Hello() string { return "hello from go" }',
        "up.test", "/files/go/up.test/hello/@v/v1.0.0.zip",
    ),
    "maven": ("extension-1.jar", "up.test", "/files/maven/test/up/extension/1/extension-1.jar"),
    "bundler": ("hello from a gem", "up.test", "/files/gems/gems/hutch_hello-1.0.0.gem"),
    "composer": ("hello from composer", "up.test", "/files/composer/hello.zip"),
    "git_https": ("1 file changed, 0 insertions(+), 0 deletions(-)", "up.test", "/git/project.git/git-receive-pack"),
    "websocket_python": ("echoed 505 4242", "up.test", "/echo"),
    "websocket_node": ("echoed 300", "up.test", "/echo"),
    "grpc_calls": (
        "b'cba' one OK\n3000000 one\n5 at once down\nb'5000000' up\n20 b'91' both\nFAILED_PRECONDITION as asked fail",
        "grpc.up.test", "/test.Echo/Both",
    ),
    "resume": ("206 4000000\n 206", "up.test", "/files/large"),
    "uploads": ("\n".join(["got 10000000"] * 6), "up.test", "/upload"),
    "tls_versions": ("\n".join(f"hello {name}up.test HTTP/2 curl" for name in ("", "", "old.", "old.", "new.", "new.")),
                     "old.up.test", "/hello/tls_versions"),
    "git_ssh": ("refs/heads/over-ssh", "git.up.test", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(place: Place, name: str) -> None:
    check_program(place, name)


@pytest.mark.parametrize("name", sorted(WITH_PROXY & PROGRAMS.keys()))
def test_a_program_by_the_explicit_proxy(proxied: Place, name: str) -> None:
    check_program(proxied, name, **PROXY)


def check_program(place: Place, name: str, **env: str) -> None:
    says, host, path = PROGRAMS[name]
    done = place.sh(place.command(name), **env)
    assert (done.code, done.text) == (0, says), done
    place.was_inspected(host, path)


# What a package manager prints, and a part of the paths that it must have fetched, wherever its index is.
PACKAGES = {
    "pip": ("idna-3.10-py3-none-any.whl", "/idna"),
    "uv": ("idna", "/idna"),
    "npm": ("is-number-7.0.0.tgz", "/is-number"),
    "yarn": ("is-number", "/is-number"),
    "yarn_berry": ("is-number", "/is-number"),
    "pnpm": ("is-number", "/is-number"),
    "apt": ("hello", "/hello_"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_manager(place: Place, name: str) -> None:
    check_package_manager(place, name)


@pytest.mark.parametrize("name", sorted(WITH_PROXY & PACKAGES.keys()))
def test_a_package_manager_by_the_explicit_proxy(proxied: Place, name: str) -> None:
    check_package_manager(proxied, name, **PROXY)


def check_package_manager(place: Place, name: str, **env: str) -> None:
    says, part = PACKAGES[name]
    before = len(place.paths())
    done = place.sh(place.command(name), 100, **env)
    assert (done.code, done.text) == (0, says), done
    tasks.wait_for(lambda: any(part in path for _, path in place.paths()[before:]), f"a path with {part}", 10)


@pytest.mark.parametrize("version", ["1", "2"])
def test_server_sent_events_arrive_at_once(place: Place, version: str) -> None:
    done = place.sh(f"python3 {INSIDE}/events.py {version}")
    late = [float(line) for line in done.text.split()]
    assert len(late) == 5, done
    assert max(late) < 0.2


REFUSAL = "x-hutch-denied: other.test is not among what the agent phase may reach"


def test_refusals_explain_themselves_to_clients_of_the_explicit_proxy(proxied: Place) -> None:
    for url in ("http://other.test/", "https://other.test/"):
        done = proxied.sh(f"curl -sS -D - --max-time 10 {url} || true", **PROXY)
        assert " 403 " in done.text.splitlines()[0], done
        assert REFUSAL in done.text.replace("\r", ""), done
    assert proxied.sh("curl -sS http://up.test/hello/plain", **PROXY).text == "hello up.test HTTP/1.1 curl"
    proxied.was_inspected("up.test", "/hello/plain")


def test_variables_that_are_lost_cost_only_who_needs_them(place: Place) -> None:
    """What uses the system's store works in an empty environment, too."""
    programs = {"python_urllib": "/usr/bin/python3", "ruby": "/usr/bin/ruby", "php_curl": "/usr/bin/php", "java": "/usr/bin/java",
                "node_fetch": "/usr/bin/node"}  # fmt: skip
    for name, interpreter in programs.items():
        [path] = HERE.glob(f"{name}.*")
        url = f"https://up.test/hello/bare_{name}"
        done = place.sh(f"env -i URL={url} {interpreter} {INSIDE}/{path.name}")
        assert done.text.startswith("hello up.test "), (name, done)
    assert place.sh("env -i git ls-remote https://up.test/git/project.git HEAD").code == 0
