"""Repositories behind https and ssh: fetched, and every failure one sentence without a password in it.

Must not leave loopback. Servers are real: git http-backend behind TLS, git-upload-pack behind an ssh server.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import git_servers, repos
from tests.support.repos import fetch, fetch_error, git

SECRET = "s3cret-t0ken"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repos.make(tmp_path / "srv" / "project.git", {"a": "1\n"})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return git_servers.certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def no_secret_below(path: Path) -> bool:
    return not any(SECRET.encode() in file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_https_is_cloned_and_fetched(state: Path, source: Path, home: Path, pem: Path) -> None:
    env = {"HOME": str(home), "SSL_CERT_FILE": str(pem)}
    with git_servers.https(source.parent, pem) as (port, seen):
        url = f"https://localhost:{port}/project.git"
        found = fetch(state, url, env=env)
        assert (found["name"], found["commit"], found["branch"]) == (
            "project",
            git(source, "rev-parse", "HEAD"),
            "main",
        )
        git(Path(found["mirror"]), "fsck", "--full")
        asked = len(seen)
        new = repos.commit(source, {"a": "2\n"})
        assert fetch(state, url, env=env)["commit"] == new
        assert len(seen) - asked <= 3
        assert fetch(state, url, env=env)["commit"] == new
        older = git(source, "commit-tree", "HEAD^{tree}", "-m", "not on a branch")
        git(source, "update-ref", "refs/pull/7/head", older)
        assert fetch(state, url, "refs/pull/7/head", env=env)["commit"] == older


@pytest.mark.parametrize("login", [f"user:{SECRET}", f"{SECRET}:"])
def test_a_login_in_the_url_is_used_and_forgotten(state: Path, source: Path, home: Path, pem: Path, login: str) -> None:
    env = {"HOME": str(home), "SSL_CERT_FILE": str(pem)}
    with git_servers.https(source.parent, pem, login) as (port, _):
        found = fetch(state, f"https://{login.removesuffix(':')}@localhost:{port}/project.git", env=env)
        assert found["origin_url"] == f"https://localhost:{port}/project.git"
        assert SECRET not in str(found)
        assert no_secret_below(state)
        error = fetch_error(state, f"https://user:{SECRET}x@localhost:{port}/project.git", env=env)
        assert "no credential was accepted" in error
        assert SECRET not in error
        assert "no credential was accepted | put a token into" in fetch_error(state, found["origin_url"], env=env)


def test_netrc_is_used(state: Path, source: Path, home: Path, pem: Path) -> None:
    (home / ".netrc").write_text(f"machine localhost login user password {SECRET}\n")
    (home / ".netrc").chmod(0o600)
    with git_servers.https(source.parent, pem, f"user:{SECRET}") as (port, _):
        url = f"https://localhost:{port}/project.git"
        assert fetch(state, url, env={"HOME": str(home), "SSL_CERT_FILE": str(pem)})["branch"] == "main"
        assert no_secret_below(state)


def test_a_login_is_not_given_to_where_a_redirect_leads(state: Path, source: Path, home: Path, pem: Path) -> None:
    env = {"HOME": str(home), "SSL_CERT_FILE": str(pem)}
    with (
        git_servers.https(source.parent, pem, f"user:{SECRET}") as (other, seen),
        git_servers.https(source.parent, pem, None, f"https://127.0.0.1:{other}") as (port, _),
    ):
        error = fetch_error(state, f"https://user:{SECRET}@localhost:{port}/moved/project.git", env=env)
    assert SECRET not in error
    assert seen
    assert all(given is None for _, given in seen)


def test_https_failures_say_why(state: Path, source: Path, home: Path, pem: Path, tmp_path: Path) -> None:
    trusted = {"HOME": str(home), "SSL_CERT_FILE": str(pem)}
    other = git_servers.certificate(tmp_path / "other.pem")
    with git_servers.https(source.parent, pem) as (port, _):
        assert "its certificate isn't trusted by this host" in fetch_error(
            state, f"https://localhost:{port}/project.git", env={"HOME": str(home), "SSL_CERT_FILE": str(other)}
        )
        assert "there is no repository at this address" in fetch_error(
            state, f"https://localhost:{port}/nothing.git", env=trusted
        )
    assert "the server can't be reached" in fetch_error(state, f"https://localhost:{port}/project.git", env=trusted)
    assert "the server can't be reached" in fetch_error(state, "https://name.invalid/project.git", env=trusted)
    assert list((state / "staging").iterdir()) == []


def keygen(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


def test_ssh_is_fetched_with_the_default_key(state: Path, source: Path, home: Path, tmp_path: Path) -> None:
    host, key = keygen(tmp_path / "host"), keygen(home / ".ssh" / "id_ed25519")
    env = {"HOME": str(home)}
    with git_servers.ssh(host, key) as port:
        url = f"ssh://git@localhost:{port}{source}"
        error = fetch_error(state, url, env=env)
        assert "its ssh host key isn't known" in error
        kind, value = (tmp_path / "host.pub").read_text().split()[:2]
        (home / ".ssh" / "known_hosts").write_text(f"[localhost]:{port} {kind} {value}\n")
        found = fetch(state, url, env=env)
        assert (found["commit"], found["origin_url"]) == (git(source, "rev-parse", "HEAD"), url)
        new = repos.commit(source, {"a": "2\n"})
        assert fetch(state, url, env=env)["commit"] == new
        key.rename(home / "gone")
        assert "no credential was accepted | give root an ssh agent or a key" in fetch_error(state, url, env=env)
        other = keygen(home / ".ssh" / "id_ecdsa")
        assert "no credential was accepted" in fetch_error(state, url, env=env)
        other.unlink()
