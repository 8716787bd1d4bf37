"""Recipes of runtimes: every version can be had, a longer one where its source has them, and nothing else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootfs.errors import ImageError
from rootfs.image import Image, ImageConfig
from rootfs.runtime_recipe import UnknownRuntime, activated, asked_by_variables, find, recipes
from sandbox.core.images import Base
from sandbox.core.model import TaskSpec
from sandbox.core.runtimes import of_task

WANTED = {
    "python": {"3.11", "3.13"}, "node": {"18", "20", "22", "24"}, "java": {"17", "21"},
    "rust": set(), "ruby": set(), "php": set(), "swift": set(), "go": set(),
}  # fmt: skip


def test_there_is_what_users_were_promised() -> None:
    assert set(recipes()) == set(WANTED)
    assert all(versions <= set(recipes()[name].versions) for name, versions in WANTED.items())
    assert len(recipes()["go"].versions) >= 3
    assert {recipe.variable for recipe in recipes().values()} == {
        f"CODEX_ENV_{name.upper()}_VERSION" for name in WANTED
    }


@pytest.mark.parametrize(
    ("name", "version"), [(one.name, version) for one in recipes().values() for version in one.versions]
)
def test_a_version_is_complete(name: str, version: str) -> None:
    found = find(name, version, "x86_64")
    assert (
        subprocess.run(
            ["bash", "-n"], input=found.script, text=True, capture_output=True, timeout=20, check=True
        ).stderr
        == ""
    )
    used = set(re.findall(r"\$\{?([A-Z]+)", found.script)) - {"PATH", "VERSION_CODENAME"}
    assert used <= set(found.build_env)
    assert found.build_env["PREFIX"] == f"/opt/hutch/{name}-{version}"
    assert all(not path.startswith("/") for path in (*found.keep, *found.drop))
    assert all(path.startswith("/") and "{" not in path for path in found.path)
    assert all("{" not in text for text in found.env.values())


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("cobol", "1", "use one of: go, java, node"),
        ("node", "23", "use one of: 18, 20, 22, 24 (or a longer version, as 18.1)"),
        ("node", "2", "there is no node '2'"),
        ("node", "22.", "there is no node"),
        ("node", "22.1; reboot", "there is no node"),
        ("node", "22.1.2.3.4", "there is no node"),
        ("python", "3.11.2", "use one of: 3.11, 3.13"),
        ("python", "", "there is no python"),
        ("python", "../../x", "there is no python"),
        ("py\x1b[2Jthon", "3", "py\\x1b[2Jthon"),
    ],
)
def test_what_can_not_be_had_is_refused_with_what_can(name: str, version: str, said: str) -> None:
    with pytest.raises(UnknownRuntime) as caught:
        find(name, version, "x86_64")
    assert said in str(caught.value)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of an administrator's own recipes."""
    monkeypatch.setenv("HUTCH_RUNTIMES", str(tmp_path))
    recipes.cache_clear()
    yield tmp_path
    recipes.cache_clear()


OWN = """
description = "x"
variable = "ZIG_VERSION"
script = "true"
keep = ["opt/hutch"]
check = "zig version"
[versions]
"1" = {}
"""


def test_an_administrator_has_recipes_too(own: Path) -> None:
    (own / "zig.toml").write_text(OWN)
    (own / "node.toml").write_text(OWN)
    assert find("zig", "1", "x86_64").check == "zig version"
    assert list(recipes()) == sorted(recipes())
    with pytest.raises(UnknownRuntime):
        find("node", "22", "x86_64")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("zig.toml", "no toml"),
        ("zig.toml", OWN + "unknown = 1\n[more]\n"),
        ("zig.toml", "unknown = 1\n" + OWN),
        ("zig.toml", OWN.replace("script", "scripts")),
        ("zig.toml", OWN.replace('"1" = {}', "")),
        ("Zig 1.toml", OWN),
    ],
)
def test_a_file_that_is_no_recipe_is_named(own: Path, file: str, text: str) -> None:
    (own / file).write_text(text)
    with pytest.raises(ImageError, match=file):
        recipes()


def test_a_longer_version_has_the_parameters_of_the_shorter() -> None:
    assert find("node", "24.1.0", "x86_64").build_env["NPM"] == find("node", "24", "x86_64").build_env["NPM"]
    assert find("node", "24.1.0", "x86_64").path == ("/opt/hutch/node-24.1.0/bin",)
    assert find("java", "21", "aarch64").env["JAVA_HOME"].endswith("-arm64")


def test_variables_of_hosted_clouds_ask_for_runtimes() -> None:
    env = {"CODEX_ENV_NODE_VERSION": "22", "CODEX_ENV_GO_VERSION": "", "CODEX_ENV_COBOL_VERSION": "1", "PATH": "/x"}
    assert asked_by_variables(env) == {"node": "22"}


def test_variables_are_left_to_an_image_that_starts_commands_itself() -> None:
    spec = TaskSpec(
        ("true",), env={"CODEX_ENV_NODE_VERSION": "22", "CODEX_ENV_RUST_VERSION": "0.1"}, runtimes={"java": "21"}
    )
    image = Image("x", ("0" * 64,), ImageConfig(entrypoint=("/e",)), "", 0, "")
    assert [one.label for one in of_task(spec, Base(image, image.layers, True))] == ["java 21"]
    image = replace(image, config=ImageConfig())
    with pytest.raises(UnknownRuntime, match="rust"):
        of_task(spec, Base(image, image.layers, True))
    spec = replace(spec, env={"CODEX_ENV_NODE_VERSION": "22"})
    assert [one.label for one in of_task(spec, Base(image, image.layers, True))] == ["java 21", "node 22"]


def test_what_is_asked_for_comes_first() -> None:
    versions = [find("java", "17", "x86_64"), find("node", "22", "x86_64")]
    env = activated({"PATH": "/bin", "JAVA_HOME": "/old"}, versions)
    assert env == {
        "PATH": "/usr/lib/jvm/java-17-openjdk-amd64/bin:/opt/hutch/node-22/bin:/bin",
        "JAVA_HOME": "/usr/lib/jvm/java-17-openjdk-amd64",
    }


def test_the_key_is_that_of_everything_the_layer_depends_on() -> None:
    one = find("node", "22", "x86_64")
    keys = {
        one.key("image", "trust"),
        one.key("another image", "trust"),
        one.key("image", "another trust"),
        find("node", "24", "x86_64").key("image", "trust"),
        find("node", "22.1", "x86_64").key("image", "trust"),
        replace(one, script="true").key("image", "trust"),
        replace(one, keep=("usr",)).key("image", "trust"),
    }
    assert len(keys) == 7
    assert one.key("image", "trust") == find("node", "22", "x86_64").key("image", "trust")
    assert all(len(key) == 64 for key in keys)
