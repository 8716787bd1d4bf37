"""What a build downloads is kept until it is done, by one build of a recipe at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootfs.package_cache import packages, sweep
from rootfs.recipe import command, load_recipe


def test_what_a_build_that_broke_off_has_downloaded_is_there_for_the_next(tmp_path: Path) -> None:
    def broken_off() -> None:
        with packages(tmp_path, "base") as kept:
            assert kept
            (kept / "one.deb").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    with packages(tmp_path, "base") as kept:
        assert kept
        assert (kept / "one.deb").read_bytes() == b"x"
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_second_build_of_a_recipe_keeps_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    with packages(tmp_path, "base") as kept, packages(tmp_path, "base") as second, packages(tmp_path, "other") as other:
        assert second is None
        assert kept != other
        assert kept
        assert other


def test_what_nobody_took_up_again_goes(tmp_path: Path) -> None:
    for name in ("old", "new", "in-use"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "one.deb").write_bytes(b"x" * 5000)
    with packages(tmp_path, "in-use") as kept:
        for name in ("old", "in-use"):
            os.utime(tmp_path / "packages" / name, (1, 1))
        assert sweep(tmp_path) >= 5000
        assert sorted(path.name for path in (tmp_path / "packages").iterdir()) == ["in-use", "new"]
        assert kept
    assert sweep(tmp_path) == 0


def test_the_packages_lie_where_apt_looks_for_them() -> None:
    argv = command(load_recipe("base"), "/tree", [], "/state/a b")
    assert (
        """--setup-hook=mkdir -p "$1"/var/cache/apt/archives && mount --bind '/state/a b' "$1"/var/cache/apt/archives"""
        in argv
    )
    assert not any("mount" in word for word in command(load_recipe("base"), "/tree", []) if word.startswith("--setup"))
