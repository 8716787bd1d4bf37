"""The script of automatic setup, run by shells of this machine on stand-ins for package managers: order, failure, a clean tree.

What the real ones do is for tests/e2e/test_autosetup.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.core.autosetup.plan import Plan
from tests.support import repos
from tests.support.manifests import plan

SHELLS = [shell for shell in ("bash", "dash", "busybox") if shutil.which(shell)]
NPM = '#!/bin/sh\necho "npm $* in ${PWD##*/}"\nmkdir -p node_modules/a\necho x >node_modules/a/x\n'


def run(made: Plan, repo: Path, shell: str = "sh", **programs: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `repo` with these programs before all others; apt-get never is one of them."""
    place = repo.parent / "programs"
    place.mkdir(exist_ok=True)
    for name, text in {"npm": NPM, "node": "#!/bin/sh\n", "apt-get": "#!/bin/sh\nexit 99\n", **programs}.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    words = [shell, "sh"] if shell == "busybox" else [shell]
    env = {**os.environ, **repos.ENVIRONMENT, "PATH": f"{place}:{os.environ['PATH']}"}
    return subprocess.run(
        [*words, "-c", f"set -e; trap 'echo trapped' EXIT; . {_script(made, repo)}"],
        cwd=repo, env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def _script(made: Plan, repo: Path) -> Path:
    path = repo.parent / "setup.sh"
    path.write_text(made.script)
    return path


FOLDER = "it's; $(touch pwned) *"
FILES = {
    f"{FOLDER}/package.json": "{}",
    f"{FOLDER}/package-lock.json": "{}",
    "package.json": "{}",
    "package-lock.json": "{}",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_was_detected_is_said_first_and_the_tree_stays_clean(tmp_path: Path, shell: str) -> None:
    repo = repos.make(tmp_path / "repo", FILES)
    done = run(plan(FILES), repo, shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "automatic setup: npm ci (package-lock.json)",
        f"automatic setup: npm ci in {FOLDER}/ ({FOLDER}/package-lock.json)",
        "", "== npm ci", "npm ci --no-audit --no-fund --no-update-notifier in repo",
        "", f"== npm ci in {FOLDER}/", f"npm ci --no-audit --no-fund --no-update-notifier in {FOLDER}",
        "trapped",
    ]  # fmt: skip
    assert (repo / FOLDER / "node_modules/a/x").exists()
    assert repos.git(repo, "status", "--porcelain") == ""
    assert not list(tmp_path.rglob("pwned"))
    before = (repo / ".git/info/exclude").read_text()
    assert run(plan(FILES), repo, shell).returncode == 0
    assert (repo / ".git/info/exclude").read_text() == before, "a second time adds nothing"


def test_tracked_files_are_put_back_and_what_nobody_foresaw_is_excluded(tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "repo", {**FILES, "gone": "x"})
    npm = f"{NPM}echo changed >package-lock.json; rm -f gone; echo x >'a [b]* #!'; mkdir -p made/deep; echo x >made/deep/x\n"
    done = run(plan(FILES), repo, npm=npm)
    assert done.returncode == 0, done.stderr
    assert "put back as committed:" in done.stdout
    assert repos.git(repo, "status", "--porcelain") == ""
    assert (repo / "package-lock.json").read_text() == "{}"
    (repo / "a b").write_text("")
    assert repos.git(repo, "status", "--porcelain") == '?? "a b"', "a pattern names its file and no other"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_step_that_fails_is_named_and_nothing_follows(tmp_path: Path, shell: str) -> None:
    repo = repos.make(tmp_path / "repo", FILES)
    done = run(plan(FILES), repo, shell, npm="#!/bin/sh\nexit 7\n")
    assert done.returncode == 7
    assert "automatic setup failed with exit code 7 at: npm ci\n" in done.stderr
    assert "--no-setup" in done.stderr
    assert f"== npm ci in {FOLDER}" not in done.stdout
    assert done.stdout.endswith("trapped\n"), "whoever runs the script sees its end"


def test_a_tool_that_can_not_be_had_fails_its_step(tmp_path: Path) -> None:
    files = {"go.mod": "module x\n"}
    done = run(plan(files), repos.make(tmp_path / "repo", files), **{"apt-get": "#!/bin/sh\nexit 99\n"})
    if shutil.which("go"):
        pytest.skip("this machine has go")
    assert done.returncode == 99
    assert "at: go mod download" in done.stderr


def test_what_is_tried_only_does_not_fail(tmp_path: Path) -> None:
    files = {"pom.xml": "<project/>", "mvnw": "exit 5\n", "package.json": "{}", "package-lock.json": "{}"}
    done = run(plan(files), repos.make(tmp_path / "repo", files), java="#!/bin/sh\n")
    assert done.returncode == 0
    assert "goes on without what could not be fetched: mvnw dependency:go-offline" in done.stderr


def test_a_lock_file_that_is_made_goes_unless_it_is_ignored(tmp_path: Path) -> None:
    cargo = {"cargo": "#!/bin/sh\necho lock >Cargo.lock\n"}
    files = {"a/Cargo.toml": "[package]\n", "b/Cargo.toml": "[package]\n", "b/.gitignore": "Cargo.lock\n"}
    repo = repos.make(tmp_path / "repo", files)
    assert run(plan(files), repo, **cargo).returncode == 0
    assert [(repo / folder / "Cargo.lock").exists() for folder in "ab"] == [False, True]
    assert repos.git(repo, "status", "--porcelain") == ""
