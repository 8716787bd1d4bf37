"""The audit log: a line for each change, whatever becomes of the request, and files that don't grow for ever."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.api import audit
from sandbox.api.audit import Audit
from sandbox.api.bounds import Message, Receive, Send
from sandbox.core.access import User


def call(log: Path, method: str, fails: bool = False, path: str = "/tasks") -> None:
    async def app(_: Message, __: Receive, send: Send) -> None:
        if fails:
            raise RuntimeError
        await send({"type": "http.response.start", "status": 202})
        assert method == "GET" or log.exists(), "written before the answer's end"

    async def nothing(*_: Any) -> Any:
        return {}

    scope = {"type": "http", "method": method, "path": path, "state": {"user": User(7), "pid": 5}}
    asyncio.run(Audit(app, log)(scope, nothing, nothing))


def test_changes_are_written_and_looks_are_not(tmp_path: Path) -> None:
    log = tmp_path / "audit.ndjson"
    call(log, "GET")
    assert not log.exists()
    call(log, "POST")
    with pytest.raises(RuntimeError):
        call(log, "DELETE", fails=True, path="/a\nb")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["uid"], one["pid"], one["method"], one["path"], one["status"]) for one in lines] == [
        (7, 5, "POST", "/tasks", 202), (7, 5, "DELETE", "/a\nb", 0),
    ]  # fmt: skip


def test_old_files_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_SIZE", 10)
    for number in range(8):
        call(tmp_path / "audit.ndjson", "POST", path=f"/{number}")
    found = {path.name: json.loads(path.read_text())["path"] for path in tmp_path.iterdir()}
    assert found == {"audit.ndjson": "/7", **{f"audit.ndjson.{age}": f"/{7 - age}" for age in (1, 2, 3, 4)}}


def test_a_disk_that_is_full_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "audit.ndjson").mkdir()
    call(tmp_path / "audit.ndjson", "POST")
