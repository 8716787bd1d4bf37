"""What the config of an imported image is good for: entrypoint, user and directory, with the image run end to end.

The images are `docker save` archives on top of the image `tiny`. Must not need a network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import HutchError
from tests.support import repos, tasks, tiny
from tests.support.archives import Layer, directory, docker_save, member, tar
from tests.support.daemon import Daemon
from tests.support.tasks import sh

PROFILE = b"""PATH=/usr/bin:/bin
for one in /etc/profile.d/*.sh; do . "$one"; done
[ ! -r /root/.node ] || export NODE="$(cat /root/.node)" PATH="/opt/node-$(cat /root/.node)/bin:$PATH"
"""
# As those of the published image: a welcome, versions by variables, a login shell that is given the rest.
ENTRYPOINT = b"""#!/bin/bash
echo "Welcome to a universal image!"
/opt/codex/setup_universal.sh
echo "Environment ready. Dropping you into a bash shell."
exec bash --login "$@"
"""
SETUP = b"""#!/bin/bash --login
set -euo pipefail
if [ -n "${CODEX_ENV_NODE_VERSION:-}" ]; then
    echo "# Node.js: ${CODEX_ENV_NODE_VERSION}"
    echo "$CODEX_ENV_NODE_VERSION" >/root/.node
    echo 'export FROM_BASHRC=yes' >>~/.bashrc
fi
"""
# Of the kind that ends in exec "$@"; it changes PATH, which a login shell would forget.
WRAP = b'#!/bin/sh\nexport PATH="/opt/wrapped/bin:$PATH" BY_ENTRYPOINT=yes\nexec "$@"\n'
PASSWD = b"root:x:0:0:root:/root:/bin/bash\napp:x:1000:1000::/home/app:/bin/bash\n"
GROUP = b"root:x:0:\ntty:x:5:\napp:x:1000:\ncrew:x:2000:app\n"
CONFIGS: dict[str, dict[str, Any]] = {
    "universal": {"Entrypoint": ["/opt/entrypoint.sh"], "Env": ["CODEX_ENV_NODE_VERSION=18", "HOME=/root"]},
    "app": {"Entrypoint": ["bin/wrap", "env", "--"], "User": "app", "WorkingDir": "/srv/work"},
    "tool": {"Entrypoint": ["git"], "WorkingDir": "/not/there"},
    "nobody": {"User": "who"},
}
# Ids, those of a set-uid program, and what /proc tells of the shell and of pid 1.
STATUS = "grep -hE '^(Uid|Cap|NoNew|Seccomp:)' /proc/self/status /proc/1/status"
WHO = f"id -u; id -g; id -G; rootid -u; echo $HOME $USER; pwd; {STATUS}"
NONE = "0" * 16
WALLS = [
    "Uid:\t1000\t1000\t1000\t1000",
    *(f"Cap{name}:\t{NONE}" for name in ("Inh", "Prm", "Eff")),
    "CapBnd:\t00000000800405fb",  # what no process without no_new_privs could gain again
    f"CapAmb:\t{NONE}",
    "NoNewPrivs:\t1",
    "Seccomp:\t2",
]
WHOM = ["1000", "1000", "1000 2000", "1000", "/home/app app", "/workspace/project", *WALLS, *WALLS]


def extra() -> bytes:
    """The layer over `tiny`, which all these images have."""
    identity = Path(shutil.which("id") or "").resolve().read_bytes()
    scripts = {b"opt/entrypoint.sh": ENTRYPOINT, b"opt/codex/setup_universal.sh": SETUP, b"srv/work/bin/wrap": WRAP}
    return tar(
        *(directory(name) for name in (b"opt/", b"opt/codex/", b"srv/", b"srv/work/", b"srv/work/bin/")),
        *(member(name, text, mode=0o755) for name, text in scripts.items()),
        directory(b"root/", 0o700),
        directory(b"root/open/", 0o777),
        directory(b"home/"),
        directory(b"home/app/", uid=1000, gid=1000),
        member(b"etc/profile", PROFILE),
        member(b"etc/passwd", PASSWD),
        member(b"etc/group", GROUP),
        member(b"usr/bin/rootid", identity, mode=0o4755),
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on a state of its own with these images."""
    place = tmp_path_factory.mktemp("images")
    layers = [Layer.of(tiny.archive(place / "tiny.tar").read_bytes()), Layer.of(extra())]
    with Daemon(place / "state") as daemon:
        for name, config in CONFIGS.items():
            (place / "saved.tar").write_bytes(docker_save(layers, config))
            done = daemon.hutch("image", "import", str(place / "saved.tar"), "--name", name)
            assert done.returncode == 0, done.stderr.decode()
        (place / "saved.tar").write_bytes(docker_save(layers, CONFIGS["tool"]))
        options = ("--name", "again", "--no-entrypoint")
        assert daemon.hutch("image", "import", str(place / "saved.tar"), *options).returncode == 0
        yield daemon


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repos.make(tmp_path / "project", {"file.txt": "main\n"})


def test_the_entrypoint_of_a_universal_image_does_what_it_does(daemon: Daemon, repo: Path) -> None:
    env = {"CODEX_ENV_NODE_VERSION": "22", "CODEX_ENV_PYTHON_VERSION": "3.12"}  # which Hutch has no runtime of
    look = 'echo "$NODE $FROM_BASHRC $1 $(pwd)"; case $PATH in /opt/node-22/bin:*) echo first;; esac; echo new >made'
    spec: dict[str, Any] = {"image": "universal", "repo": str(repo), "env": env}
    spec["setup"] = "echo set up with $NODE; echo $NODE >/root/by-setup; export PLAIN=1"
    done = tasks.run(daemon, "sh", "-c", f"{look}; cat /root/by-setup; exit 7", "sh", "an 'argument'", **spec)
    task = done["id"]
    assert (done["exit_code"], tasks.phases(done)) == (7, ["fetch", "checkout", "setup", "checkout", "agent", "result"])
    said = {phase: tasks.output(daemon, task, phase).decode() for phase in ("setup", "agent", "checkout")}
    assert said["setup"].splitlines()[0] == "Welcome to a universal image!"
    assert said["setup"].splitlines()[-2:] == ["Environment ready. Dropping you into a bash shell.", "set up with 22"]
    assert said["agent"].splitlines()[-3:] == ["22 yes an 'argument' /workspace/project", "first", "22"]
    assert said["agent"].count("Welcome") == 1
    assert said["checkout"] == "", "our own scripts do without it"
    assert done["diff"]["files"] == 1
    assert "hutch image import --no-entrypoint" in tasks.notices(daemon, task)


def test_an_image_s_user_is_whom_everything_runs_as(daemon: Daemon, repo: Path) -> None:
    setup = 'test -O . && test -O file.txt && id -un >"$HOME/by-setup" && ! touch /etc/x 2>/dev/null'
    look = f"{WHO}; echo >new; echo $BY_ENTRYPOINT $PATH; cat ~/by-setup; git status --short"
    with tasks.running(daemon, look, image="app", repo=str(repo), setup=setup) as task:
        first = tasks.output(daemon, task).decode().splitlines()
        joined = tasks.execute(daemon, task, "bash", "-lc", f"{WHO}; env").text.splitlines()
        terminal = tasks.execute(daemon, task, *sh(f'{WHO}; echo said >"$(readlink /proc/self/fd/0)"'), tty=True)
        stream = tasks.execute(daemon, task, *sh("echo again >/dev/stdout; cat /dev/stdin"), stdin=b"told")
    assert first[: len(WHOM)] == joined[: len(WHOM)] == WHOM
    assert first[len(WHOM)].startswith("yes /opt/wrapped/bin:")
    assert first[len(WHOM) + 1 : -1] == ["app", "?? new"]
    assert "BY_ENTRYPOINT=yes" not in joined, "a command that joins goes its own way"
    assert terminal.text.split("\r\n") == [*WHOM, "said"], "a terminal can be opened by its name"
    assert (stream.code, stream.text) == (0, "again\ntold")


def test_a_user_gets_nowhere_by_its_working_directory(daemon: Daemon, repo: Path) -> None:
    """Who joins would else start in a directory which only root may enter, and could go on from there."""
    swap = "cd / && mv /workspace/project /workspace/other && ln -s /root/open /workspace/project"
    refused = pytest.raises(HutchError, match=r"change to the directory /workspace/project: .*Permission denied")
    with tasks.running(daemon, swap, image="app", repo=str(repo)) as task, refused:
        tasks.execute(daemon, task, "true")


def test_without_a_repository_commands_start_in_the_image_s_directory(daemon: Daemon) -> None:
    done = tasks.run(daemon, *sh("pwd; grep ' /run/hutch ' /proc/mounts"), image="app")
    where, mount = tasks.output(daemon, done["id"]).decode().splitlines()
    assert where == "/srv/work"
    assert {"ro", "nosuid", "nodev"} <= set(mount.split()[3].split(","))
    assert "noexec" not in mount, "what the entrypoint starts lies there"
    done = tasks.run(daemon, *sh("pwd"), image="again")
    assert tasks.output(daemon, done["id"]) == b"/workspace\n", "there is no /not/there"


def test_an_entrypoint_that_starts_no_commands(daemon: Daemon) -> None:
    done = tasks.run(daemon, "true", image="tool", setup="true")
    assert done["error"]["message"] == "setup failed with exit code 1"
    assert (
        "if 'git', the entrypoint of 'tool', starts no commands: hutch image import --no-entrypoint"
        in done["error"]["remedy"]
    )
    assert b"is not a git command" in tasks.output(daemon, done["id"], "setup", "stderr")


def test_a_user_that_the_image_does_not_have(daemon: Daemon) -> None:
    done = daemon.hutch("run", "--image", "nobody", "--", "true")
    assert done.returncode != 0
    assert b"cannot run commands in the image 'nobody' as its user 'who': its /etc/passwd has no 'who'" in done.stderr


def test_images_tell_their_entrypoint(daemon: Daemon) -> None:
    config = json.loads(daemon.hutch("image", "show", "--json", "app").stdout)["config"]
    assert (config["entrypoint"], config["user"], config["workdir"]) == (["bin/wrap", "env", "--"], "app", "/srv/work")
    assert b"bin/wrap env --" in daemon.hutch("image", "show", "app").stdout
    assert json.loads(daemon.hutch("image", "show", "--json", "again").stdout)["config"]["entrypoint"] == []
