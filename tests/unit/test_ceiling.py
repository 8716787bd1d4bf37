"""The administrator's ceiling: its file is understood to the last word, and nobody gets above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core import ceiling
from sandbox.core.ceiling import Ceiling, parse
from sandbox.core.errors import BadRequest, TaskError
from sandbox.core.model import TaskSpec
from sandbox.core.network import OFF, UNRESTRICTED, NetworkSpec
from sandbox.host.cgroup_layout import Limits

FILE = """
deny = ["Evil.example", "10.0.0.0/8", "https://half.example/upload/"]
agent_access = "limited"
private = ["git.corp.example", "10.1.0.0/16", "fd00::/8"]
"""
FULL = parse(FILE, "/c.toml")


def test_a_file_is_read_in_canonical_spelling() -> None:
    assert (
        Ceiling(
            ("evil.example", "10.0.0.0/8", "https://half.example/upload/"),
            "limited",
            ("git.corp.example", "10.1.0.0/16", "fd00::/8"),
            "/c.toml",
        )
        == FULL
    )
    assert parse("", "/c.toml") == Ceiling(file="/c.toml")
    assert FULL.with_private(["x.example", "git.corp.example"]).private[3:] == ("x.example",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("denny = []", "there is no key 'denny': the keys are deny, agent_access, private, limits"),
        ("[deny]", "deny is a list of rules"),
        ('deny = "evil.example"', "deny is a list of rules"),
        ("deny = [1]", "deny is a list of rules"),
        ('deny = ["ev il"]', "deny: rule 'deny ev il'"),
        ('deny = ["deny evil.example"]', "deny: rule"),
        ('agent_access = "none"', "agent_access is 'off', 'limited' or 'unrestricted', not 'none'"),
        ("agent_access = true", "agent_access is"),
        ('private = ["a b"]', "private: 'a b' is neither a name nor a network"),
        ('private = ["10.0.0.1/8"]', "is neither a name nor a network"),
        ("private = {}", "private is a list of names"),
        ("deny = [", "can't be used"),
    ],
)
def test_what_is_not_understood_stops_the_start(text: str, reason: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse(text, "/c.toml")
    assert reason in caught.value.message
    assert "/c.toml" in caught.value.message


def test_without_a_file_there_is_no_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "usual.toml"
    monkeypatch.setattr(ceiling, "DEFAULT_FILE", usual)
    assert ceiling.load(None) == Ceiling()
    usual.write_text('agent_access = "off"')
    assert ceiling.load(None) == Ceiling(agent_access="off", file=str(usual))


def test_a_file_that_was_named_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"cannot read the ceiling .*none: No such file"):
        ceiling.load(tmp_path / "none")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    with pytest.raises(TaskError, match="is not UTF-8"):
        ceiling.load(binary)


@pytest.mark.parametrize(
    ("highest", "access", "exceeds"),
    [
        ("off", "off", False),
        ("off", "limited", True),
        ("limited", "limited", False),
        ("limited", "unrestricted", True),
        ("unrestricted", "unrestricted", False),
    ],
)
def test_an_agent_gets_no_more_than_the_ceiling(highest: str, access: str, exceeds: bool) -> None:
    above = Ceiling(agent_access=highest, file="/c.toml")
    above.check("setup", NetworkSpec(access))
    if not exceeds:
        return above.check("agent", NetworkSpec(access))
    with pytest.raises(
        BadRequest, match=f"access {access} is more than the ceiling /c.toml grants an agent: {highest}"
    ):
        above.check("agent", NetworkSpec(access))


@pytest.mark.parametrize(
    ("denied", "rule", "useless"),
    [
        ("evil.example", "evil.example", True),
        ("evil.example", "a.evil.example:8443", True),
        ("evil.example", "*.evil.example", True),
        ("evil.example", "https://a.evil.example/x/", True),
        ("evil.example", "tcp://evil.example:22", True),
        ("evil.example", "notevil.example", False),
        ("evil.example", "example", False),
        ("=evil.example", "evil.example", False),
        ("=evil.example", "=evil.example", True),
        ("*.evil.example", "evil.example", False),
        ("*.evil.example", "*.evil.example", True),
        ("*.evil.example", "a.evil.example", True),
        ("evil.example:443", "evil.example", False),
        ("evil.example:443", "https://evil.example/", True),
        ("https://evil.example/", "http://evil.example/", False),
        ("https://evil.example/a/", "https://evil.example/a/", False),
        ("evil.example methods=POST", "evil.example", False),
        ("203.0.113.0/24", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.0/24", False),
        ("203.0.113.0/24", "evil.example", False),
    ],
)
def test_a_rule_of_which_nothing_would_be_left_is_told(denied: str, rule: str, useless: bool) -> None:
    above, spec = Ceiling((denied,), file="/c.toml"), NetworkSpec("limited", rules=(rule,))
    for phase in ("setup", "agent"):
        if not useless:
            above.check(phase, spec)
            continue
        with pytest.raises(BadRequest, match=r"is of no use: the ceiling /c\.toml has 'deny "):
            above.check(phase, spec)


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("10.1.2.3", False),
        ("tcp://10.1.2.3:22", False),
        ("10.1.0.0/16", False),
        ("10.2.0.1", True),
        ("10.0.0.0/8", True),
        ("169.254.169.254", True),
        ("203.0.113.7", False),
        ("0.0.0.0/0", False),
        ("git.corp.example", False),
    ],
)
def test_private_addresses_are_the_administrators_to_grant(rule: str, refused: bool) -> None:
    above = Ceiling(private=FULL.private, file="/c.toml")
    spec = NetworkSpec("limited", rules=(rule,))
    if not refused:
        return above.check("agent", spec)
    with pytest.raises(BadRequest, match=r"the ceiling /c.toml does not list them as private"):
        above.check("agent", spec)


def test_what_is_denied_is_nobodys_to_leave_out() -> None:
    FULL.check("agent", OFF)
    FULL.check("setup", UNRESTRICTED)
    FULL.check("agent", NetworkSpec("limited", rules=("deny evil.example",)))


CAPPED = parse('limits = { memory = "4G", cpus = 2, disk = "10G", files = 1000 }', "/c.toml")


def test_limits_that_nobody_asked_for_are_the_ceilings() -> None:
    spec = CAPPED.capped(TaskSpec(("true",)))
    assert (spec.disk, spec.files, spec.limits) == (10 << 30, 1000, None)
    assert CAPPED.lowered(Limits(8 << 30, 1.5, 100)) == Limits(4 << 30, 1.5, 100)
    assert parse("", "/c.toml").capped(TaskSpec(("true",))) == TaskSpec(("true",))


def test_limits_below_it_stay() -> None:
    spec = TaskSpec(("true",), limits=Limits(1 << 30, 2.0, 1 << 20), disk=1 << 30, files=1000)
    assert CAPPED.capped(spec) == spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            TaskSpec((), limits=Limits(5 << 30, 1.0, 9)),
            "limits.memory: 5.0 GiB is above the ceiling of 4.0 GiB in /c.toml",
        ),
        (TaskSpec((), limits=Limits(1 << 30, 2.5, 9)), "limits.cpus: 2.5 is above the ceiling of 2 in"),
        (TaskSpec((), disk=11 << 30), "limits.disk: 11.0 GiB is above"),
        (TaskSpec((), files=1001), "limits.files: 1001 is above"),
    ],
)
def test_limits_above_it_are_refused(spec: TaskSpec, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        CAPPED.capped(spec)


@pytest.mark.parametrize(
    "text",
    ["limits = 3", "limits = { ram = 1 }", 'limits = { memory = "lots" }', "limits = { memory = 1 }", "limits = { cpus = true }",
     "limits = { cpus = nan }", "limits = { files = [] }"],
)  # fmt: skip
def test_limits_of_the_file_that_make_no_sense_stop_the_start(text: str) -> None:
    with pytest.raises(TaskError, match="can't be used"):
        parse(text, "/c.toml")
