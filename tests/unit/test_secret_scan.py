"""What setup left of a secret: found wherever it may be, by a job that reads a tenant's tree."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.core.hiding import spellings
from tests.support.repos import ROOT

VALUE = "t0ken-of-a-registry/42"


def scan(tree: Path, *allowed: str) -> list[tuple[str, str]]:
    """Paths and whys of what is found."""
    texts = [base64.b64encode(text).decode() for text in spellings([VALUE])]
    request = {"trees": [str(tree)], "spellings": {"TOKEN": texts}, "allowed": list(allowed)}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "rootfs.secret_scan"], input=json.dumps(request).encode(), cwd=ROOT,
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])["result"]["found"]
    assert all(one["name"] == "TOKEN" for one in found)
    return [(one["path"], one["why"]) for one in found]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "upper"
    (top / "root/deep").mkdir(parents=True)
    (top / "root/clean").write_text("nothing of t0ken-of-a-registry here\n" * 1000)
    return top


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("raw", VALUE, "in its content"),
        ("base64", base64.b64encode(f"user:{VALUE}".encode()).decode(), "in its content"),
        ("url", f"https://x/?t={VALUE.replace('/', '%2F')}", "in its content"),
        ("border", "x" * ((1 << 20) - 7) + VALUE, "in its content"),
        (VALUE.replace("/", "%2f"), "", "in its name"),
    ],
)
def test_it_is_found(tree: Path, name: str, content: str, why: str) -> None:
    (tree / "root/deep" / name).write_text(content)
    assert scan(tree) == [(f"/root/deep/{name}", why)]


def test_inside_gzip_in_links_and_attributes(tree: Path) -> None:
    (tree / "log.gz").write_bytes(gzip.compress(b"first") + gzip.compress(b"y" * 5_000_000 + VALUE.encode()))
    (tree / "link").symlink_to(VALUE)
    (tree / "attribute").write_text("x")
    os.setxattr(tree / "attribute", "user.note", VALUE.encode())
    assert scan(tree) == [
        ("/attribute", "in an attribute"),
        ("/link", "in the link's target"),
        ("/log.gz", "in its unpacked content"),
    ]


def test_where_it_is_allowed(tree: Path) -> None:
    for path in ("root/.npmrc", "root/deep/other"):
        (tree / path).write_text(VALUE)
    assert scan(tree, "/root/.npmrc") == [("/root/deep/other", "in its content")]
    assert scan(tree, "/root/*") == []


def test_a_hostile_tree(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(VALUE)
    (tree / "to-outside").symlink_to(outside)
    (tree / "loop").symlink_to(".")
    os.mkfifo(tree / "fifo")
    with open(tree / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(VALUE.encode())
    (tree / "torn.gz").write_bytes(gzip.compress(os.urandom(100_000))[:50_000])
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert scan(tree) == [("/sparse", "in its content")]
