"""Which scripts prepare a task: the user's, or what the default branch's commit asks for and the task's own beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox.core.model import TaskSpec
from sandbox.core.preparation import prepare
from sandbox.core.source import Source
from tests.support.manifests import found

NPM = {"package.json": "{}", "package-lock.json": "{}"}
NEWER = {"package.json": "{}", "package-lock.json": "{ }"}
GO = {"go.mod": "module x\n"}
SPEC = TaskSpec(("true",), repo="/project")


def source(default: Mapping[str, str], task: Mapping[str, str]) -> Source:
    return Source(
        "m", Path("o"), "u", "/workspace/x", "c", None, None, "d", "main", {}, (), True, found(task), found(default)
    )


def test_a_script_of_the_user_decides() -> None:
    for setup in ("make", ""):
        prepared = prepare(dataclasses.replace(SPEC, setup=setup, maintenance="freshen"), source(NPM, GO))
        assert (prepared.setup, prepared.maintenance(True), prepared.maintenance(False)) == (setup, "freshen", "")
        assert (prepared.explain(), prepared.excludes, dict(prepared.snapshot_inputs)) == ([], [], {})


def test_without_a_repository_there_is_nothing() -> None:
    prepared = prepare(dataclasses.replace(SPEC, repo=None), None)
    assert (prepared.setup, prepared.maintenance(True)) == ("", "")


@pytest.mark.parametrize("hit", [True, False])
def test_the_same_manifests_need_nothing_more(hit: bool) -> None:
    prepared = prepare(SPEC, source(NPM, NPM))
    assert "npm ci" in prepared.setup
    assert prepared.maintenance(hit) == ""
    assert prepared.excludes == ["/node_modules/"]
    assert set(prepared.snapshot_inputs) == {"automatic", "file:package.json", "file:package-lock.json"}


@pytest.mark.parametrize("hit", [True, False])
def test_a_commit_with_others_gets_what_it_asks_for_on_top(hit: bool) -> None:
    prepared = prepare(SPEC, source(NPM, {**NEWER, **GO}))
    assert "npm ci" in prepared.maintenance(hit)
    assert "go mod download" in prepared.maintenance(hit)
    assert "go mod download" not in prepared.setup
    assert prepared.explain()[1].startswith("the task's commit has another package-lock.json, go.mod: ")
    assert prepared.snapshot_inputs == prepare(SPEC, source(NPM, NPM)).snapshot_inputs


def test_nothing_on_the_default_branch_is_no_snapshot() -> None:
    prepared = prepare(SPEC, source({}, NPM))
    assert prepared.setup == ""
    assert "npm ci" in prepared.maintenance(False)


def test_a_maintenance_script_takes_the_place_of_what_would_come_on_top() -> None:
    prepared = prepare(dataclasses.replace(SPEC, maintenance="freshen"), source(NPM, GO))
    assert (prepared.maintenance(True), prepared.maintenance(False)) == ("freshen", "")
    assert len(prepared.explain()) == 1
