"""`hutch image …`: make, list and remove images.

It must not look into an archive: its bytes are hostile until a job of the daemon has unpacked them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import BinaryIO

import click

from sandbox.cli.common import Group, image_argument, json_option, pass_client
from sandbox.cli.image_verify import verify
from sandbox.cli.output import STDOUT, paint, print_json, print_line, print_table, printable
from sandbox.cli.progress import Progress, open_progress
from sandbox.client import Client, HutchError
from sandbox.shapes import Image
from sandbox.units import bytes_text

_CHUNK = 1024 * 1024
RECIPES = ("base", "universal")
_no_entrypoint = click.option(
    "--no-entrypoint",
    is_flag=True,
    help="Leave the image's entrypoint out: for one that is a tool and starts no commands.",
)


@click.group(cls=Group)
def image() -> None:
    """Build, import, list and remove images.

    An image is the root file system that tasks start from. `hutch image build base` makes the one that `hutch run`
    takes unless told otherwise.
    """


@image.command()
@click.argument("recipe", type=click.Choice(RECIPES))
@click.option("--name", metavar="NAME", help="The image's name.  [default: the recipe's]")
@json_option
@pass_client
def build(client: Client, recipe: str, name: str | None, as_json: bool) -> None:
    """Build an image from a recipe. Takes some minutes.

    base is Debian with Python, git, Node.js and build tools. universal adds what coding agents use every day (cmake, git-lfs, fd,
    protobuf and more), and Go, Rust, Java, Ruby, PHP and Swift; other versions of these are runtimes (hutch runtime --help).

    \b
    Examples:
      hutch image build base
      hutch image build universal
    """
    with open_progress() as progress:
        record = _finish(client.build_image(name or recipe, recipe), progress)
    _made(record, as_json)


@image.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--name", required=True, metavar="NAME", help="The image's name; an image of that name is replaced.")
@_no_entrypoint
@json_option
@pass_client
def import_(client: Client, file: str, name: str, no_entrypoint: bool, as_json: bool) -> None:
    """Make an image of FILE: a root file system's tar, or what `docker save` or an OCI tool wrote. - is standard input.

    Plain, gzip, xz and zstd are recognised by themselves. A container image's variables, user, working directory and entrypoint
    are those of every task on it.

    \b
    Examples:
      hutch image import rootfs.tar.xz --name mine
      docker save python:3.13 | hutch image import - --name python
    """
    with _open(file) as archive, open_progress() as progress:
        size = os.fstat(archive.fileno()).st_size if file != "-" else None
        source = os.path.basename(file) if file != "-" else "standard input"
        data = _read(archive, file, size, progress)
        record = _finish(client.import_image(name, data, source=source, entrypoint=not no_entrypoint), progress)
    _made(record, as_json)


@image.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--name", metavar="NAME", help="The image's name; an image of that name is replaced.  [default: REF's last part]"
)
@_no_entrypoint
@json_option
@pass_client
def pull(client: Client, reference: str, name: str | None, no_entrypoint: bool, as_json: bool) -> None:
    """Make an image of one in a registry: REF is what `docker pull` takes. The daemon's host needs skopeo.

    Its variables, user, working directory and entrypoint are those of every task on it. A login that root has for the registry
    (skopeo login, docker login) is used.

    \b
    Examples:
      hutch image pull python:3.13-slim
      hutch image pull registry.example/team/build:2 --name build
    """
    plain = reference.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    with open_progress() as progress:
        record = _finish(client.pull_image(name or plain, reference, entrypoint=not no_entrypoint), progress)
    _made(record, as_json)


@image.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List all images."""
    images = client.images()
    if as_json:
        print_json({"images": images})
        return
    rows = [(one["name"], bytes_text(one["size"]), one["created"], one["source"]) for one in images]
    print_table(("NAME", "SIZE", "CREATED", "SOURCE"), rows)


@image.command()
@json_option
@image_argument
@pass_client
def show(client: Client, name: str, as_json: bool) -> None:
    """Show one image: its digest, layers and configuration."""
    found = client.image(name)
    if as_json:
        print_json(found)
        return
    for label, value in details(found):
        print_line(f"{paint(f'{label + ":":12}', 'bold', STDOUT)} {printable(value)}")


image.add_command(verify)


@image.command()
@json_option
@image_argument
@pass_client
def rm(client: Client, name: str, as_json: bool) -> None:
    """Forget an image. Its layers go with the next `hutch gc`, unless something else needs them."""
    client.remove_image(name)
    if as_json:
        print_json({"removed": [name]})


def details(found: Image) -> list[tuple[str, str]]:
    """What `image show` prints, as (name, value)."""
    config = found["config"]
    return [
        ("name", found["name"]),
        ("digest", found["digest"]),
        ("size", bytes_text(found["size"])),
        ("created", found["created"]),
        ("source", found["source"]),
        *(("layer", layer) for layer in found["layers"]),
        *(("env", f"{key}={value}") for key, value in config.get("env", {}).items()),
        ("workdir", config.get("workdir") or "/"),
        ("user", config.get("user") or "root"),
        ("entrypoint", shlex.join(config.get("entrypoint") or []) or "none"),
    ]


def _finish(lines: Iterator[dict[str, object]], progress: Progress) -> Image:
    """Show a job's progress; returns the image that it made. client.py raises when there is none."""
    record: Image | None = None
    for line in lines:
        if "progress" in line:
            progress.line(line)
        else:
            record = line.get("result")  # type: ignore[assignment]
    assert record is not None
    return record


def _made(record: Image, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    entrypoint = shlex.join(record["config"].get("entrypoint") or [])
    told = f", whose entrypoint starts what runs in it: {printable(entrypoint)}" if entrypoint else ""
    print_line(f"image {record['name']}, {bytes_text(record['size'])}{told}")


def _open(file: str) -> BinaryIO:
    try:
        return open(0 if file == "-" else file, "rb", buffering=0, closefd=file != "-")
    except OSError as error:
        raise HutchError(
            f"cannot open the archive {file!r}: {error.strerror}", "give the path of a tar file"
        ) from error


def _read(archive: BinaryIO, file: str, size: int | None, progress: Progress) -> Iterator[bytes]:
    done = 0
    while True:
        try:
            chunk = archive.read(_CHUNK)
        except OSError as error:
            raise HutchError(f"cannot read the archive {file!r}: {error.strerror}") from error
        if not chunk:
            return
        done += len(chunk)
        progress.uploaded(done, size)
        yield chunk
