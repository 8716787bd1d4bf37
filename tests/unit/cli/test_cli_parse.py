"""What people type becomes what the API takes, or one sentence that says what would be right."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sandbox import units
from sandbox.cli import parse
from sandbox.cli.main import is_plain_exec, wants_json
from sandbox.cli.network_options import typed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), (" 1m5s ", 65), ("007", 7)],
)
def test_duration(text: str, seconds: int) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "5x", "-1", "1.5h", "30m1h", "1h30", "m", "٣", "1 h"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write 90"):
        units.duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("512M", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("10KB", 10240), ("1T", 1 << 40), ("7 B", 7)],
)
def test_size(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize("text", ["", "0", "0.1", "M", "-1M", "1E", "1,5G", "nan", "1MM"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        units.size(text)


@pytest.mark.parametrize(
    ("text", "pair"), [("A=b", ("A", "b")), ("A=", ("A", "")), ("_A1=b=c", ("_A1", "b=c")), ("A= x\n", ("A", " x\n"))]
)
def test_variable(text: str, pair: tuple[str, str]) -> None:
    assert parse.variable(text) == pair


@pytest.mark.parametrize("text", ["", "A", "=b", "1A=b", "A B=c", "A-B=c", "é=1"])
def test_no_variable(text: str) -> None:
    with pytest.raises(ValueError, match="is no variable"):
        parse.variable(text)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/a.git", "ssh://git@example.com/a", "file:///srv/a", "git@example.com:a/b.git", "host:path"],
)
def test_urls_are_left_alone(url: str) -> None:
    assert parse.repository(url) == url


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").mkdir()
    assert parse.repository(".") == str(tmp_path)
    assert parse.repository("a/../b") == f"{tmp_path}/b"
    assert parse.repository("./x:y") == f"{tmp_path}/x:y"
    assert parse.repository("odd:name") == f"{tmp_path}/odd:name"
    assert parse.repository("/srv/x") == "/srv/x"
    with pytest.raises(ValueError, match="the repository is empty"):
        parse.repository("")


def test_scripts_come_as_text_or_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("pip install é\n")
    assert parse.text_or_file("echo @x") == "echo @x"
    assert parse.text_or_file(f"@{script}") == "pip install é\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert parse.text_or_file("@-") == "from a pipe"


def test_unreadable_scripts_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"ab\xff")
    for name, reason in ((f"{tmp_path}/none", "No such file"), (str(tmp_path), "Is a directory"), ("a\0b", "null")):
        with pytest.raises(ValueError, match=f"cannot read the script file .*{reason}"):
            parse.text_or_file(f"@{name}")
    with pytest.raises(ValueError, match="is not UTF-8 text: invalid start byte at byte 2"):
        parse.text_or_file(f"@{binary}")


def test_rules_are_the_daemons_to_read() -> None:
    assert parse.allowed_rule("anything at all") == "anything at all"
    assert parse.denied_rule("example.com") == parse.denied_rule("deny example.com") == "deny example.com"
    with pytest.raises(ValueError, match="behind --deny"):
        parse.allowed_rule("deny example.com")


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("example.com", ["example.com"]),
        ("a.example b.example", ["a.example", "b.example"]),
        ("a.example methods=GET mode=inspect =b.example", ["a.example methods=GET mode=inspect", "=b.example"]),
        ("methods=GET", ["methods=GET"]),
    ],
)
def test_a_rules_options_may_be_words_of_their_own(line: str, rules: list[str]) -> None:
    assert parse.rules(line.split()) == rules


def test_methods() -> None:
    assert parse.methods("get, HEAD") == ["GET", "HEAD"]
    assert parse.methods("version-control") == ["VERSION-CONTROL"]
    assert parse.methods("any") == []
    for wrong in ("", "GET,", "GET HEAD", "GET,any", "GÉT"):
        with pytest.raises(ValueError, match="write GET,HEAD,OPTIONS, or any"):
            parse.methods(wrong)


def test_what_was_not_typed_is_left_out() -> None:
    nothing = {"access": None, "preset": None, "allow": (), "deny": (), "methods": None}
    assert typed(nothing) == {}
    assert typed({f"setup_{name}": value for name, value in nothing.items()}, "setup-") == {}
    some = {**nothing, "allow": ("a",), "deny": ("deny b",), "methods": [], "preset": "none", "access": "off"}
    assert typed(some) == {"access": "off", "preset": "none", "rules": ["a", "deny b"], "methods": None}


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("exec abc -- ls", True),
        ("exec abc -- ls --json", True),
        ("exec abc --", False),
        ("exec abc ls -l", False),
        ("exec -t abc -- ls", False),
        ("exec --json abc -- ls", False),
        ("exec --help -- ls", False),
        ("--socket x exec abc -- ls", False),
        ("run abc -- ls", False),
        ("", False),
    ],
)
def test_only_the_plain_exec_goes_past_click(line: str, plain: bool) -> None:
    assert is_plain_exec(line.split()) is plain


def test_json_after_the_dashes_is_the_inner_commands() -> None:
    assert wants_json(["run", "--json", "--", "x"])
    assert not wants_json(["run", "--", "x", "--json"])
