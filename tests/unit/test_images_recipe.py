"""Recipes: where packages come from, what is run, what its output means. And the job protocol.

Must not build anything.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rootfs.errors import ImageError
from rootfs.job import Progress
from rootfs.recipe import Steps, command, failure, load_recipe, sources

BASE = load_recipe("base")
DEBIAN = "Debian|Debian|bookworm|main|http://mirror.example/debian/"
UPDATES = "Debian|Debian|bookworm-updates|main|http://mirror.example/debian/"
SECURITY = "Debian|Debian-Security|bookworm-security|main|http://mirror.example/debian-security/"


def test_the_base_recipe_has_what_the_issue_names() -> None:
    wanted = {
        "python3-pip",
        "python3-venv",
        "python3-dev",
        "git",
        "nodejs",
        "npm",
        "build-essential",
        "ca-certificates",
    }
    assert wanted | {"ripgrep", "curl", "jq", "python-is-python3"} <= set(BASE.packages)
    assert any("EXTERNALLY-MANAGED" in path for path in BASE.exclude)


def test_an_unknown_recipe_is_an_error_that_lists_them() -> None:
    for name in ("nope", "../base", ""):
        with pytest.raises(ImageError, match="base"):
            load_recipe(name)


@pytest.mark.parametrize(
    ("targets", "lines"),
    [
        ([], []),
        (["Ubuntu|Ubuntu|noble|main|http://mirror.example/ubuntu/"], []),
        ([SECURITY], []),
        ([DEBIAN], ["deb http://mirror.example/debian/ trixie main"]),
        (["Other|. x|x|main|http://other.example/", DEBIAN, DEBIAN], ["deb http://mirror.example/debian/ trixie main"]),
        (
            [SECURITY, UPDATES, DEBIAN],
            [
                "deb http://mirror.example/debian/ trixie main",
                "deb http://mirror.example/debian/ trixie-updates main",
                "deb http://mirror.example/debian-security/ trixie-security main",
            ],
        ),
        (["Debian|Debian|bookworm|contrib|http://mirror.example/debian/", "damaged"], []),
    ],
)  # fmt: skip
def test_sources_are_those_of_the_host(targets: list[str], lines: list[str]) -> None:
    assert sources(BASE, "\n".join(targets)) == lines


def test_a_mirror_replaces_the_hosts_sources() -> None:
    assert sources(BASE, DEBIAN, "http://near.example/debian") == ["deb http://near.example/debian trixie main"]


def test_the_command_dies_with_its_parent() -> None:
    argv = command(BASE, "/tree", ["deb x"])
    assert argv[:2] == ["setpriv", "--pdeathsig=KILL"]
    assert "--kill-child" in argv
    assert argv[-3:] == ["trixie", "/tree", "deb x"]


def test_progress_rises_from_stage_to_stage() -> None:
    steps, seen = Steps(), []
    lines = ["I: running apt-get update...", "I: downloading packages with apt...", "Setting up early (1) ..."]
    lines += ["I: installing remaining packages inside the chroot...", "0 upgraded, 2 newly installed, 0 to remove"]
    for package in ("a", "b"):
        lines += [f"Get:1 http://mirror.example/debian trixie/main amd64 {package} amd64 1.0 [2 kB]"]
    for package in ("a", "b"):
        lines += [
            f"Unpacking {package}:amd64 (1.0) ...",
            f"Setting up {package}:amd64 (1.0) ...",
            "Setting up",
            "noise",
        ]
    for line in lines:
        steps.feed(line)
        seen.append((steps.percent, steps.text))
    assert [percent for percent, _ in seen] == sorted(percent for percent, _ in seen)
    assert (14, "downloading packages") in seen
    assert seen[-1] == (97, "setting up b")
    assert "downloading a" in [text for _, text in seen]


def test_a_failure_is_told_by_its_errors() -> None:
    lines = ["I: running apt-get update...", "Err:1 mirror", "E: Unable to fetch", "I: cleaning up"]
    assert failure(lines) == "Err:1 mirror | E: Unable to fetch"
    assert failure(["just this"]) == "just this"
    package = "dpkg: error processing package x (--configure):"
    assert failure([package, *["Setting up y"] * 50, "E: Sub-process env returned an error code (1)"]) == package


def test_a_recipe_extends_another() -> None:
    universal = load_recipe("universal")
    assert set(BASE.packages) < set(universal.packages)
    assert (universal.suite, universal.exclude, universal.files) == (BASE.suite, BASE.exclude, BASE.files)
    assert any("--essential-hook" in word and "man$section" in word for word in command(universal, "/tree", []))


def test_progress_lines_are_thinned_but_the_last_one_comes() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(1001):
        progress("unpacking", done, 1000)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) < 50
    assert lines[-1] == {"progress": "unpacking", "done": 1000, "total": 1000}


def run_import(request: str) -> tuple[int, list[dict[str, object]]]:
    argv = [sys.executable, "-I", "-m", "rootfs.import_job"]
    done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("request_text", ["", "[]", "{", "{}", '{"state": "/nonexistent/x"}'])
def test_a_wrong_request_is_one_error_line(request_text: str) -> None:
    code, lines = run_import(request_text)
    assert code == 1
    assert list(lines[-1]) == ["error"]


def test_a_missing_or_empty_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, words in (("missing", "No such file"), ("empty", "it is empty"), (".", "isn't a file")):
        code, lines = run_import(
            json.dumps({"state": str(tmp_path / "s"), "archive": str(tmp_path / name), "name": "x"})
        )
        assert code == 1
        assert words in str(lines[-1]["error"])
