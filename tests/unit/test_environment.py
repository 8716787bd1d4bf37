"""What a phase finds inside; the profile script is run by the shells of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rootfs.image import ImageConfig
from rootfs.system_layer import Directory, File
from rootfs.users import User
from sandbox.core import environment

EARLY_RETURN = {
    "case": 'case $- in *i*) ;; *) return;; esac\nexport SEEN="$SEEN yes"\n',
    "ps1": '[ -z "$PS1" ] && return\nexport SEEN="$SEEN yes"\n',
    "brackets": '[[ $- != *i* ]] && return\nexport SEEN="$SEEN yes"\n',
    "none": 'export SEEN="$SEEN yes"\n',
}


@pytest.mark.parametrize("kind", sorted(EARLY_RETURN))
def test_exports_in_bashrc_reach_shells_that_are_not_interactive(tmp_path: Path, kind: str) -> None:
    (tmp_path / ".bashrc").write_text(EARLY_RETURN[kind])
    assert "yes" in _run(tmp_path, "bash", 'echo "$SEEN"')


def test_the_path_of_the_image_survives_etc_profile(tmp_path: Path) -> None:
    assert _run(tmp_path, "bash", "echo $PATH", HUTCH_PATH="/opt/x/bin:/usr/bin:/bin") == "/opt/x/bin:/usr/bin:/bin"


def test_nothing_of_the_profile_is_left_in_the_shell(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("export A=1\n")
    assert _run(tmp_path, "bash", 'echo "${PS1-unset} ${_hutch_bashrc-unset} $A"') == "unset unset 1"


def test_a_plain_shell_reads_it_too(tmp_path: Path) -> None:
    assert _run(tmp_path, "sh", "echo fine") == "fine"


def test_variables_of_the_task_win_over_the_image_and_ours() -> None:
    merged = environment.variables({"PATH": "/image", "A": "image"}, {"SSL_CERT_FILE": "/x"}, {"A": "task"})
    assert merged["PATH"] == merged["HUTCH_PATH"] == "/image"
    assert (merged["A"], merged["HOME"], merged["SSL_CERT_FILE"]) == ("task", "/root", "/x")


def test_a_phase_is_its_user_s() -> None:
    app = User(1000, 1000, (5,), "app", "/home/app")
    merged = environment.variables({}, {}, {}, app)
    assert (merged["HOME"], merged["USER"], merged["LOGNAME"]) == ("/home/app", "app", "app")
    assert environment.variables({"HOME": "/of/image"}, {}, {}, app)["HOME"] == "/of/image"
    assert environment.overlay_files(app)["workspace"] == Directory(owner=(1000, 1000))
    assert environment.overlay_files()["workspace"] == Directory()


def test_without_an_entrypoint_nothing_is_added() -> None:
    assert environment.entered(ImageConfig(), ["a", "b"]) == (("a", "b"), {})


@pytest.mark.parametrize(
    ("entrypoint", "program"),
    [("tini", "tini"), ("/e.sh", "/e.sh"), ("./e.sh", "/srv/./e.sh"), ("bin/e", "/srv/bin/e")],
)
def test_a_relative_entrypoint_is_so_to_the_image_s_directory(entrypoint: str, program: str) -> None:
    argv, _ = environment.entered(ImageConfig(entrypoint=(entrypoint, "--"), workdir="/srv"), ["true"])
    assert argv == (program, "--", "/run/hutch/start")


@pytest.mark.parametrize("entrypoint", ['exec "$@"', 'exec bash --login "$@"', '"$@"'])
def test_what_an_entrypoint_is_given_runs_the_command_as_it_is(tmp_path: Path, entrypoint: str) -> None:
    command = ["a b", "'", "$HOME", "", "\n", "\udcff", "-n"]
    _, files = environment.entered(
        ImageConfig(entrypoint=("/e",)), ["bash", "-c", 'printf "%s|" "$PATH" "$@"', "0", *command]
    )
    start = tmp_path / "start"
    start.write_bytes(files["start"])
    start.chmod(0o755)
    wrapped = ["bash", "-c", f"export PATH=/by/entrypoint:$PATH HUTCH_PATH=/old; {entrypoint}", "entrypoint", start]
    done = subprocess.run(
        wrapped, capture_output=True, timeout=20, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    path, *said = done.stdout.decode("utf-8", "surrogateescape").split("|")
    assert said == [*command, ""]
    assert "bash --login" in entrypoint or path == "/by/entrypoint:/usr/bin:/bin"


def _run(home: Path, shell: str, command: str, **env: str) -> str:
    profile = environment.overlay_files()["etc/profile.d/00-hutch.sh"]
    assert isinstance(profile, File)
    (home / "profile.sh").write_bytes(profile.data)
    done = subprocess.run(
        [shell, "-c", f". {home}/profile.sh; {command}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()
