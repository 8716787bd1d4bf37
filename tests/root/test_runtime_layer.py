"""What a runtime's script has written becomes a layer: what is kept, what goes, and that no layer hides another's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootfs.runtime_layer import drop, prune, unhide

OPAQUE = "trusted.overlay.opaque"


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    top = tmp_path / "upper"
    for path in (
        "opt/hutch/node-22/bin/node",
        "opt/other/x",
        "usr/bin/tool",
        "etc/passwd",
        "etc/tool/conf",
        "root/.npm/x",
        "tmp/x",
    ):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(path)
    return top


def files(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_only_what_is_kept_stays(upper: Path) -> None:
    prune(upper, ["opt/hutch", "etc"])
    assert files(upper) == {"opt/hutch/node-22/bin/node", "etc/passwd", "etc/tool/conf"}
    drop(upper, ["etc/passwd", "etc/shadow", "var/lib/x"])
    assert files(upper) == {"opt/hutch/node-22/bin/node", "etc/tool/conf"}


def test_no_link_leads_out_of_it(upper: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    for name in ("passwd", "hutch", "x"):
        (outside / name).write_text("the host's")
    prune(upper, [])
    assert list(upper.iterdir()) == []
    (upper / "etc").symlink_to(outside)
    (upper / "opt").symlink_to(outside)
    (upper / "usr").mkdir()
    (upper / "usr" / "deep").symlink_to(outside)
    prune(upper, ["etc", "opt/hutch", "usr"])
    assert files(upper) == {"etc", "usr/deep"}, "a link is no directory in which something is to be kept"
    drop(upper, ["etc/passwd", "usr/deep/x"])
    unhide(upper, [])
    assert {path.name for path in outside.iterdir()} == {"passwd", "hutch", "x"}


def test_a_link_below_leads_nowhere(upper: Path, tmp_path: Path) -> None:
    """The image's own: what the host has behind it must not decide about the layer."""
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / "opt").symlink_to(tmp_path / "host")
    (tmp_path / "host" / "hutch").mkdir(parents=True)
    os.setxattr(upper / "opt/hutch", OPAQUE, b"y")
    unhide(upper, [lower])
    assert OPAQUE not in os.listxattr(upper / "opt/hutch")


def test_a_new_directory_hides_nothing_and_one_that_replaced_another_still_does(upper: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "etc" / "tool").mkdir(parents=True)
    for path in ("opt", "opt/hutch", "etc/tool", "usr/bin"):
        os.setxattr(upper / path, OPAQUE, b"y")
    unhide(upper, [lower])
    marked = {path for path in ("opt", "opt/hutch", "etc/tool", "usr/bin") if OPAQUE in os.listxattr(upper / path)}
    assert marked == {"etc/tool"}
