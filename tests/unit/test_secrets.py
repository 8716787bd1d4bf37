"""Secrets: kept sealed, shown by nothing, and handed out to the phases that they are for."""

from __future__ import annotations

import json
import stat
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.credentials import parse_credential
from sandbox.core.errors import BadRequest, NotFound
from sandbox.core.network import PHASES
from sandbox.core.sealing import Sealer
from sandbox.core.secrets import Grant, Secrets
from sandbox.core.store import Store
from sandbox.host.errors import HostError
from sandbox.host.key_files import read_key, write_key

VALUE, OTHER = "ghp_Zk3vR8qLm2Xw7TbN", "ghp_Qq9wErTy5uIoP1aS"
GRANT = Grant(("API.example.com", "git.example.com/team/"), "Authorization: Bearer {}", ("header", "query"), ("agent",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "hutch.db")
    yield opened
    opened.close()


@pytest.fixture
def secrets(store: Store, tmp_path: Path) -> Secrets:
    return Secrets(store, Sealer.load(tmp_path))


def test_the_filter_is_told_the_value_and_a_phase_the_placeholder(secrets: Secrets) -> None:
    shown = secrets.set("TOKEN", VALUE, GRANT)
    (told,) = secrets.granted(["TOKEN"], "agent")
    credential = parse_credential(told)
    assert (credential.value, credential.placeholder) == (VALUE, shown["placeholder"])
    assert credential.places == {"header", "query"}
    assert credential.is_for("git.example.com", "/team/x")
    assert secrets.placeholders(["TOKEN"], "agent") == {"TOKEN": shown["placeholder"]}
    for phase in ("setup", "maintenance", "checkout"):
        assert secrets.granted(["TOKEN"], phase) == []
        assert secrets.placeholders(["TOKEN"], phase) == {}


def test_neither_list_nor_database_nor_key_show_a_value(secrets: Secrets, store: Store, tmp_path: Path) -> None:
    answers = [secrets.set("TOKEN", VALUE, GRANT), secrets.rotate("TOKEN", OTHER), *secrets.shown()]
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    everything = kept + json.dumps(answers).encode() + repr(secrets.shown()).encode()
    assert b"TOKEN" in everything
    for value in (VALUE, OTHER):
        for form in (value, value[4:], b64encode(value.encode()).decode().rstrip("="), value.encode().hex()):
            assert form.encode() not in everything


def test_a_placeholder_stays_when_the_value_changes(secrets: Secrets) -> None:
    first = secrets.set("TOKEN", VALUE, GRANT)["placeholder"]
    assert secrets.rotate("TOKEN", OTHER)["placeholder"] == first
    assert secrets.set("TOKEN", VALUE, Grant(("other.example",)))["placeholder"] == first
    assert secrets.granted(["TOKEN"], "agent")[0]["for"] == ["other.example"]
    longer = secrets.rotate("TOKEN", VALUE + "x")["placeholder"]
    assert longer != first
    assert len(longer) == len(VALUE) + 1


def test_a_placeholder_that_has_become_the_value_is_replaced(secrets: Secrets) -> None:
    first = secrets.set("TOKEN", VALUE, GRANT)["placeholder"]
    assert secrets.rotate("TOKEN", first)["placeholder"] != first


def test_rotating_keeps_what_a_secret_is_for(secrets: Secrets) -> None:
    before = secrets.set("TOKEN", VALUE, GRANT)
    after = secrets.rotate("TOKEN", OTHER)
    assert {**before, "changed": after["changed"]} == after
    assert secrets.granted(["TOKEN"], "agent")[0]["value"] == OTHER


@pytest.mark.parametrize(
    ("name", "value", "grant", "reason"),
    [
        ("A-B", VALUE, GRANT, "name of a variable"),
        ("A", "too short", GRANT, "less than 12"),
        ("A", "x" * 10_000, GRANT, "more than 8192"),
        ("A", VALUE + "\n", GRANT, "line ends"),
        ("A", VALUE + "\ud800", GRANT, "ASCII"),
        ("A", VALUE, Grant(("127.0.0.1",)), "no host"),
        ("A", VALUE, Grant(()), "cannot give the plain secret A to the agent"),
        ("A", "seven77", Grant((), phases=("setup",)), "needs 8 characters or more"),
        ("A", "null\0byte", Grant((), phases=("setup",)), "no null byte"),
        ("A", "x" * 1_000_000, Grant((), phases=("setup",)), "longer than 64 KiB"),
        ("A B", VALUE, Grant((), phases=("setup",)), "no name of a variable"),
        ("A", VALUE, Grant((), "Bearer {}", phases=("setup",)), "a header or places need hosts"),
        ("A", VALUE, Grant(("a.example",), "Bearer"), None),
        ("A", VALUE, Grant(("a.example",), "Bearer {}"), "header with one"),
    ],
)
def test_what_can_not_be_brokered_is_not_kept(
    secrets: Secrets, name: str, value: str, grant: Grant, reason: str | None
) -> None:
    if reason is None:
        assert secrets.set(name, value, grant)["header"] == "Bearer"
        return
    with pytest.raises(BadRequest, match=reason) as caught:
        secrets.set(name, value, grant)
    assert value not in caught.value.message
    assert secrets.shown() == []


def test_unknown_names(secrets: Secrets) -> None:
    secrets.set("TOKEN", VALUE, GRANT)
    secrets.check(["TOKEN"])
    with pytest.raises(BadRequest, match="no secret 'OTHER'"):
        secrets.check(["TOKEN", "OTHER"])
    for call in (lambda: secrets.rotate("OTHER", VALUE), lambda: secrets.remove("OTHER")):
        with pytest.raises(NotFound, match="no secret 'OTHER'"):
            call()
    with pytest.raises(NotFound):
        secrets.placeholders(["OTHER"], "agent")
    secrets.remove("TOKEN")
    assert secrets.granted(["TOKEN"], "agent") == []
    assert secrets.shown() == []


def test_what_was_sealed_opens_again_and_only_as_itself(tmp_path: Path) -> None:
    sealed = Sealer.load(tmp_path).seal("A", VALUE)
    assert Sealer.load(tmp_path).open("A", sealed) == VALUE
    assert Sealer.load(tmp_path).seal("A", VALUE) != sealed
    wrong = [("B", sealed), ("A", sealed[:-1] + bytes([sealed[-1] ^ 1])), ("A", sealed[:5]), ("A", b"")]
    for name, data in wrong:
        with pytest.raises(HostError, match=f"cannot decrypt the secret {name}"):
            Sealer.load(tmp_path).open(name, data)
    with pytest.raises(HostError, match=r"the key in .*secrets\.key"):
        Sealer.load(tmp_path / "other").open("A", sealed)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    Sealer.load(tmp_path)
    path = tmp_path / "keys" / "secrets.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(HostError, match="not its owner's alone"):
        Sealer.load(tmp_path)


@pytest.mark.parametrize("text", ["", "abc", "00" * 31, "zz" * 32])
def test_a_key_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    write_key(tmp_path / "keys" / "secrets.key", text)
    with pytest.raises(HostError, match="not 64 hexadecimal digits"):
        Sealer.load(tmp_path)


def test_a_credential_of_systemd_is_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "hutch-secrets-key").write_text("ab" * 32 + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    sealed = Sealer.load(tmp_path).seal("A", VALUE)
    assert not (tmp_path / "keys").exists()
    assert Sealer(bytes.fromhex("ab" * 32), "").open("A", sealed) == VALUE
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # a daemon that is given other credentials
    with pytest.raises(HostError, match="cannot decrypt"):
        Sealer.load(tmp_path).open("A", sealed)


def test_a_key_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    assert read_key(path) is None
    path.parent.mkdir()
    path.with_suffix(".new").write_text("of a daemon that was killed")
    write_key(path, "text")
    assert read_key(path) == "text"
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(HostError, match="cannot read the key"):
        read_key(path)


def test_a_plain_one_is_for_setup_and_maintenance_alone(secrets: Secrets) -> None:
    value = "first line\nsecond line"
    shown = secrets.set("KEY", value, Grant((), phases=("setup", "maintenance")))
    assert (shown["for"], shown["phases"]) == ([], ["setup", "maintenance"])
    assert value not in str(shown)
    assert secrets.plain(["KEY"]) == {"setup": {"KEY": value}, "maintenance": {"KEY": value}}
    assert [secrets.placeholders(["KEY"], phase) for phase in PHASES] == [{}, {}, {}]
    assert [secrets.granted(["KEY"], phase) for phase in PHASES] == [[], [], []]
    before = secrets.fingerprint({"KEY": value})
    secrets.rotate("KEY", "another value")
    assert secrets.plain(["KEY"])["setup"] == {"KEY": "another value"}
    assert secrets.fingerprint({"KEY": "another value"}) != before == secrets.fingerprint({"KEY": value})
    with pytest.raises(BadRequest, match="longer than 64 KiB"):
        secrets.rotate("KEY", "x" * 70_000)
