"""The cache key and the reasons of a miss, as tables."""

from __future__ import annotations

import dataclasses

import pytest

from sandbox.core import cache
from sandbox.core.model import Snapshot, TaskSpec
from sandbox.core.network import DEFAULTS, OFF, UNRESTRICTED

SPEC = TaskSpec(command=("true",), setup="make", env={"A": "1"})
PARTS = cache.inputs(SPEC, "sha256:image", "https://git.example/p")


AUTOMATIC = {"automatic": "script", "file:package.json": "1", "file:web/yarn.lock": "2"}


@pytest.mark.parametrize(
    ("automatic", "reason"),
    [
        ({**AUTOMATIC, "file:web/yarn.lock": "3"}, "web/yarn.lock"),
        ({"automatic": "other", "file:package.json": "1"}, "automatic setup, web/yarn.lock"),
        ({**AUTOMATIC, **{f"file:{number}": "1" for number in range(7)}}, "0, 1, 2, 3, 4, …"),
        ({}, "automatic setup"),
    ],
)
def test_automatic_setup_depends_on_the_files_that_decided_it(automatic: dict[str, str], reason: str) -> None:
    spec = dataclasses.replace(SPEC, setup=None)
    before = cache.inputs(spec, "sha256:image", None, automatic=AUTOMATIC)
    parts = cache.inputs(spec, "sha256:image", None, automatic=automatic)
    assert cache.key(parts) != cache.key(before)
    assert cache.explain_miss(parts, _snapshot(before), 60.0).endswith(f" ago): {reason}")


def test_a_script_instead_of_automatic_setup_is_told() -> None:
    automatic = cache.inputs(dataclasses.replace(SPEC, setup=None), "sha256:image", None, automatic=AUTOMATIC)
    given = cache.inputs(SPEC, "sha256:image", None)
    assert cache.explain_miss(given, _snapshot(automatic), 60.0).endswith(": setup script, automatic setup")


@pytest.mark.parametrize(
    ("change", "image", "url", "reason"),
    [
        ({"setup": "make all"}, "sha256:image", "https://git.example/p", "setup script"),
        ({"maintenance": "make"}, "sha256:image", "https://git.example/p", "maintenance script"),
        ({"env": {"A": "2"}}, "sha256:image", "https://git.example/p", "variables"),
        ({"env": {"A": "1", "B": ""}}, "sha256:image", "https://git.example/p", "variables"),
        ({"network": DEFAULTS | {"setup": OFF}}, "sha256:image", "https://git.example/p", "setup's network"),
        ({"environment": "web"}, "sha256:image", "https://git.example/p", "environment"),
        ({}, "sha256:other", "https://git.example/p", "image"),
    ],
)
def test_whatever_setup_depends_on_makes_another_key(
    change: dict[str, object], image: str, url: str, reason: str
) -> None:
    parts = cache.inputs(dataclasses.replace(SPEC, **change), image, url)  # type: ignore[arg-type]
    assert cache.key(parts) != cache.key(PARTS)
    assert (
        cache.explain_miss(parts, _snapshot(PARTS), 60.0)
        == f"changed since the latest snapshot (1 minute ago): {reason}"
    )


def test_a_secret_that_setup_may_use_counts_by_its_placeholder() -> None:
    with_secret = cache.inputs(SPEC, "sha256:image", "https://git.example/p", {"TOKEN": "placeholder"})
    assert {name for name in PARTS if PARTS[name] != with_secret[name]} == {"env"}
    assert with_secret != cache.inputs(SPEC, "sha256:image", "https://git.example/p", {"TOKEN": "another"})


@pytest.mark.parametrize(
    "change",
    [{"command": ("false",)}, {"ref": "v1"}, {"network": DEFAULTS | {"agent": UNRESTRICTED}}, {"timeout": 3.0}],
)
def test_what_only_the_agent_sees_does_not(change: dict[str, object]) -> None:
    parts = cache.inputs(dataclasses.replace(SPEC, **change), "sha256:image", "https://git.example/p")  # type: ignore[arg-type]
    assert cache.key(parts) == cache.key(PARTS)


def test_the_order_of_variables_does_not_matter() -> None:
    one, two = (
        TaskSpec(command=("true",), env={"A": "1", "B": "2"}),
        TaskSpec(command=("true",), env={"B": "2", "A": "1"}),
    )
    assert cache.inputs(one, "i", None) == cache.inputs(two, "i", None)


def test_no_part_contains_what_the_user_gave() -> None:
    secret = dataclasses.replace(SPEC, env={"TOKEN": "hunter2-hunter2"})
    assert "hunter2" not in repr(cache.inputs(secret, "i", None))


def test_a_first_run_and_an_expired_snapshot_are_told_apart() -> None:
    assert cache.explain_miss(PARTS, None) == "first run of this environment"
    assert cache.explain_miss(PARTS, _snapshot(PARTS), 13 * 3600.0) == "the latest snapshot (13 hours old) has expired"
    assert cache.explain_hit(_snapshot(PARTS), 3.4) == "snapshot is 3 s old"


@pytest.mark.parametrize(
    ("patterns", "ref", "trusted"),
    [
        (None, "refs/heads/any", True),
        (None, None, True),
        ([], "refs/heads/main", False),
        (["main"], "refs/heads/main", True),
        (["main"], "refs/heads/Main", False),
        (["main"], "refs/heads/main2", False),
        (["main"], "refs/tags/main", False),
        (["main"], "refs/pull/1/main", False),
        (["refs/heads/main"], "refs/heads/main", True),
        (["release/*"], "refs/heads/release/1/fix", True),
        (["release/*"], "refs/tags/release/1", False),
        (["refs/tags/v*"], "refs/tags/v1", True),
        (["refs/tags/v*"], "refs/heads/refs/tags/v1", False),
        (["x", "v[0-9]"], "refs/heads/v2", True),
        (["*"], "refs/heads/any/thing", True),
        (["*"], "refs/tags/v1", False),
        (["*", "refs/*"], None, False),
    ],
)
def test_whom_the_cache_trusts(patterns: list[str] | None, ref: str | None, trusted: bool) -> None:
    assert cache.trusts(patterns, ref) is trusted


def _snapshot(parts: dict[str, str]) -> Snapshot:
    return Snapshot(
        "s", cache.key(parts), "sha256:image", "0" * 64, "https://git.example/p", None, None, None, parts, 0.0, 43200.0
    )
