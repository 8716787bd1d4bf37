"""`hutch env` and `hutch snapshot` as processes, and what `hutch run` makes of the checkout that it stands in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Server
from tests.unit.cli.contract_secrets import SNAPSHOT

REMOTE = "https://git.example/team/web.git"


@pytest.fixture
def web(server: Server) -> Iterator[str]:
    """An environment; all that there are are removed afterwards."""
    words = ("--repo", REMOTE, "--setup", "npm ci", "--var", "A=1", "--memory", "2G", "--secret", "TOKEN")
    done = server.hutch("env", "create", "web", *words, "--allow", "a.example")
    assert done.returncode == 0, done.stderr
    yield "web"
    for one in server.client.environments():
        server.client.remove_environment(one["name"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the environment's repository."""
    top = tmp_path / "web"
    for argv in (["init", "-q", str(top)], ["-C", str(top), "remote", "add", "origin", "git@git.example:team/web"]):
        subprocess.run(["git", *argv], check=True, timeout=30)
    (top / "sub").mkdir()
    return top


def requested(server: Server, *arguments: str, cwd: Path) -> dict[str, Any]:
    """What `hutch run` asks the daemon for."""
    done = server.hutch("run", "-d", *arguments, "--", "true", cwd=cwd)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = server.client._json("GET", f"/tasks/{done.stdout.decode().strip()}")["spec"]
    return {name: value for name, value in found.items() if name != "command"}


def failed(server: Server, *arguments: str, **options: Any) -> str:
    done = server.hutch(*arguments, **options)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == b""
    return done.stderr.decode().strip()


def test_an_environment_comes_and_goes(server: Server, web: str) -> None:
    shown = json.loads(server.hutch("env", "show", web, "--json").stdout)
    assert shown["settings"] == {
        "repo": REMOTE,
        "setup": "npm ci",
        "env": {"A": "1"},
        "secrets": ["TOKEN"],
        "limits": {"memory": 2 << 30},
        "network": {"agent": {"rules": ["a.example"]}},
    }
    assert b"web   git.example/team/web  base" in server.hutch("env", "ls").stdout
    assert failed(server, "env", "create", web).startswith("hutch: there is an environment 'web' already")
    assert server.hutch("env", "copy", web, "copy").returncode == 0
    assert server.hutch("env", "rm", "copy").returncode == 0
    assert "there is no environment 'copy'" in failed(server, "env", "show", "copy")
    assert "cannot use 'No Name'" in failed(server, "env", "create", "No Name")


def test_options_change_entries_and_add_rules(server: Server, web: str) -> None:
    done = server.hutch("env", "edit", web, "--var", "B=2", "--allow", "b.example", "--cpus", "2", "--setup", "")
    assert done.returncode == 0, done.stderr
    settings = server.client.environment(web)["settings"]
    assert settings["env"] == {"A": "1", "B": "2"}
    assert settings["network"] == {"agent": {"rules": ["a.example", "b.example"]}}
    assert settings["limits"] == {"memory": 2 << 30, "cpus": 2.0}
    assert settings["setup"] == ""


def test_what_is_exported_is_what_is_imported(server: Server, web: str, tmp_path: Path) -> None:
    server.hutch("env", "edit", web, "--setup", "one\ntwo 'three'\n")
    file = tmp_path / "hutch.toml"
    file.write_bytes(server.hutch("env", "export", web).stdout)
    assert server.hutch("env", "import", "again", str(file)).returncode == 0
    assert server.client.environment("again")["settings"] == server.client.environment(web)["settings"]
    assert "is an environment 'again' already" in failed(server, "env", "import", "again", str(file))
    assert server.hutch("env", "import", "again", "-", "--replace", input=b'image = "base"\n').returncode == 0
    assert server.client.environment("again")["settings"] == {"image": "base"}


def test_an_editor_that_writes_nonsense_loses_nothing(server: Server, web: str) -> None:
    assert "no terminal to edit on" in failed(server, "env", "edit", web)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'image = "base"\n[limits]\nmemory = "much"\n', "line 3: limits.memory: 'much' is no size"),
        (b'imagine = "base"\n', "line 1: imagine: there is no such setting"),
        (b'\n[env]\n"A B" = "1"\n', "line 2: env: 'A B' is no name of a variable"),
        (b"[network.agent]\n\nrules = [\n 'a b.example',\n]\n", "line 3: network.agent.rules"),
        (b"timeout = true\n\n", "line 1: timeout: true is no amount"),
        (b"image = base\n", "Invalid value (at line 1, column 9)"),
        (b"image = 'b\xff'\n", "line 1: invalid start byte; the file must be UTF-8"),
        (b"setup = { file = 'no/such.sh' }\n", "line 1: setup: cannot read 'no/such.sh': No such file"),
        (b"setup = { path = 'x' }\n", 'write a script as text, or as { file = "path/of/the/script.sh" }'),
    ],
)
def test_a_wrong_file_is_told_by_line_and_key(server: Server, checkout: Path, text: bytes, sentence: str) -> None:
    file = checkout / "hutch.toml"
    file.write_bytes(text)
    for command in (("env", "import", "wrong", str(file)), ("env", "show", "--effective")):
        error = failed(server, *command, cwd=checkout)
        assert sentence in error, command
        assert str(file) in error
        assert "\n" not in error


def test_the_request_says_where_it_comes_from(server: Server, checkout: Path) -> None:
    where = {"checkout": str(checkout), "remote": "git@git.example:team/web"}
    assert requested(server, cwd=checkout / "sub") == where
    (checkout / "setup.sh").write_text("make\n")
    (checkout / "hutch.toml").write_text("setup = { file = 'setup.sh' }\nenv.A = '1'\n")
    project = {"setup": "make\n", "env": {"A": "1"}}
    assert requested(server, cwd=checkout / "sub") == {**where, "project": project}
    assert requested(server, "--env", "web", cwd=checkout) == {**where, "environment": "web"}
    assert requested(server, "--repo", REMOTE, cwd=checkout) == {"repo": REMOTE}
    assert requested(server, "--repo", str(checkout), cwd=checkout.parent) == {
        "repo": str(checkout),
        "remote": where["remote"],
        "project": project,
    }


def test_what_would_hold_and_from_where(server: Server, web: str, checkout: Path) -> None:
    (checkout / "hutch.toml").write_text("secrets = ['TOKEN']\nenv = { A = '2', B = '2' }\ncache.enabled = false\n")
    done = server.hutch("env", "show", "--effective", "--json", "--deny", "b.example", cwd=checkout)
    found = json.loads(done.stdout)
    assert found["environment"] == "web"
    settings, sources = found["settings"], found["sources"]
    assert settings["repo"] == str(checkout)
    assert settings["env"] == {"A": "2", "B": "2"}
    assert settings["network"]["agent"]["rules"] == ["a.example", "deny b.example"]
    assert settings["network"]["agent"]["access"] == "limited"
    assert settings["limits"] == {"memory": 2 << 30, "cpus": 2.0, "pids": 4096, "disk": None, "files": None}
    assert settings["cache"] == {"lifetime": 0.0, "trusted_refs": None}
    assert sources["repo"] == "the checkout"
    assert sources["setup"] == "environment web"
    assert sources["env.A"] == "hutch.toml"
    assert sources["network.agent.rules"] == "environment web + the request"
    assert "limits.pids" not in sources
    lines = server.hutch("env", "show", web, "--effective", cwd="/").stdout.decode().splitlines()
    assert any(line.split() == ["limits.memory", "2.0", "GiB", "environment", "web"] for line in lines)
    assert any(line.split() == ["image", "base", "default"] for line in lines)


def test_a_file_gives_itself_no_secret(server: Server, web: str, checkout: Path) -> None:
    (checkout / "hutch.toml").write_text("secrets = ['TOKEN', 'OTHER']\n")
    error = failed(server, "env", "show", "--effective", cwd=checkout)
    assert "hutch.toml, line 1: secrets: the secret OTHER is not given to this project" in error
    assert server.hutch("env", "show", "--effective", "--secret", "OTHER", cwd=checkout).returncode == 0


def test_trusted_refs_are_the_environment_s(server: Server, web: str, checkout: Path) -> None:
    done = server.hutch("env", "edit", web, "--trusted-ref", "release/*", "--trusted-ref", "refs/tags/v*")
    assert done.returncode == 0, done.stderr
    assert server.client.environment(web)["settings"]["cache"] == {"trusted_refs": ["release/*", "refs/tags/v*"]}
    lines = server.hutch("env", "show", web, "--effective", cwd="/").stdout.decode().splitlines()
    words = ["cache.trusted_refs", "release/*,", "refs/tags/v*", "environment", "web"]
    assert any(line.split() == words for line in lines)
    server.hutch("env", "edit", web, "--cache-lifetime", "1d", "--trusted-ref", "main")
    assert server.client.environment(web)["settings"]["cache"] == {"trusted_refs": ["main"], "lifetime": 86400}
    (checkout / "hutch.toml").write_text("[cache]\ntrusted_refs = ['*']\n")
    error = failed(server, "env", "show", "--effective", cwd=checkout)
    assert "hutch.toml, line 2: cache.trusted_refs: a project can't say which of its refs are trusted" in error
    assert server.hutch("run", "--trusted-ref", "x", "--", "true").returncode == 2, "it is no option of a task"


def test_snapshots_for_people(server: Server) -> None:
    lines = server.hutch("snapshot", "ls").stdout.decode().splitlines()
    assert lines[1].startswith("5a5a5a5a5a5a  https://git.example/team/web  2.9 KiB ")
    assert b"commit       " + b"c" * 40 in server.hutch("snapshot", "show", "5a").stdout
    assert "there is no snapshot 'b'" in failed(server, "snapshot", "show", "b")
    done = server.hutch("snapshot", "rm", "5a", "--json")
    assert json.loads(done.stdout)["bytes"] >= 3000
    assert json.loads(server.hutch("snapshot", "ls", "--json").stdout) == {"snapshots": []}
    assert SNAPSHOT.startswith("5a")
