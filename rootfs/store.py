"""The store of layers and images: layers/, images/, staging/ below the state directory.

Must not parse archives or run anything but `sync`. What is visible here is complete and on disk: things are
built in staging/ and appear by one rename.

    staging/<random>/…  ──sync, rename──▶  layers/<id>/        never written again
    images/.<name>.tmp  ──fsync, rename─▶  images/<name>.json  names layers that exist
    layers/<id>/        ──rename──▶ staging/<random>/…  ──▶ deleted
"""

import fcntl
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rootfs.errors import ImageError, UnknownImage
from rootfs.image import Image, check_layer_id, check_name
from rootfs.tree import Removed, remove_tree, sync_directory, tree_size

_RECORD_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Swept:
    """What `sweep_staging` or `remove_unused_layers` did."""

    count: int
    bytes: int


@dataclass(frozen=True)
class Store:
    """Handle on one state directory. Holds nothing open; many processes may use the same one."""

    root: Path
    layers: Path = field(init=False)
    images: Path = field(init=False)
    staging: Path = field(init=False)

    def __post_init__(self) -> None:
        for name, mode in (("layers", 0o700), ("images", 0o700), ("staging", 0o700)):
            path = self.root / name
            path.mkdir(parents=True, exist_ok=True, mode=mode)
            object.__setattr__(self, name, path)

    # images

    def list_images(self) -> list[Image]:
        """All images by name."""
        return [self.load(path.stem) for path in sorted(self.images.glob("*.json")) if not path.name.startswith(".")]

    def load(self, name: str) -> Image:
        """The record of one image; an error when there is none."""
        path = self.images / f"{check_name(name)}.json"
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(_RECORD_MAX))
        except FileNotFoundError as error:
            raise UnknownImage(name) from error
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read the image record {path}: {error}", "import the image again") from error
        return Image.from_dict(value)

    def stat(self, name: str) -> os.stat_result:
        """The file of an image's record, which is another one after every `save`; an error when there is none."""
        try:
            return (self.images / f"{check_name(name)}.json").stat()
        except FileNotFoundError as error:
            raise UnknownImage(name) from error

    def save(self, image: Image) -> None:
        """Make the image visible under its name, replacing the former one in the same instant."""
        for layer in image.layers:
            if not self.has_layer(layer):
                raise ImageError(
                    f"cannot save the image '{image.name}': its layer {layer} is missing", "import it again"
                )
        path = self.images / f"{check_name(image.name)}.json"
        temporary = self.images / f".{image.name}.{secrets.token_hex(4)}.tmp"
        try:
            with temporary.open("x") as file:
                json.dump(image.to_dict(), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ImageError(f"cannot write the image record {path}: {error.strerror}", "free some space") from error
        sync_directory(self.images)

    def remove(self, name: str) -> None:
        """Forget an image. Its layers stay until `remove_unused_layers`."""
        try:
            (self.images / f"{check_name(name)}.json").unlink()
        except FileNotFoundError as error:
            raise UnknownImage(name) from error
        sync_directory(self.images)

    # layers

    def layer_path(self, layer: str) -> Path:
        return self.layers / check_layer_id(layer)

    def layer_paths(self, image: Image) -> list[Path]:
        """The directories of an image, bottom first."""
        return [self.layer_path(layer) for layer in image.layers]

    def has_layer(self, layer: str) -> bool:
        return self.layer_path(layer).is_dir()

    def layer_size(self, layer: str) -> int:
        """Bytes in its regular files. Walks the whole layer."""
        return tree_size(self.layer_path(layer))

    def commit_layer(self, tree: Path, layer: str, *, synced: bool = True) -> Path:
        """Turn a finished tree in staging/ into a layer. When the layer exists already, `tree` is left for the caller.

        Without `synced` the caller must sync (`sync_layers`) before anything names the layer.
        """
        target = self.layer_path(layer)
        if target.is_dir():
            return target
        if synced:
            sync_filesystem(tree)
        try:
            tree.rename(target)
        except OSError as error:
            if not target.is_dir():  # otherwise somebody else was faster with the same content
                raise ImageError(
                    f"cannot move {tree} to {target}: {error.strerror}", "keep the state on one file system"
                ) from error
        sync_directory(self.layers)
        return target

    def sync_layers(self) -> None:
        """Bring all layers to the disk."""
        sync_filesystem(self.layers)

    def unused_layers(self, referenced: set[str]) -> list[str]:
        """Layers that no image names and that aren't in `referenced` (snapshots and running tasks know theirs)."""
        used = referenced.union(*(image.layers for image in self.list_images()))
        return sorted(path.name for path in self.layers.iterdir() if path.name not in used)

    def remove_unused_layers(self, referenced: set[str]) -> Swept:
        """Delete unused layers; none while a job counts on finding the layers it saw (see `keep_layers`)."""
        with self._layer_lock(fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
            unused = self.unused_layers(referenced) if locked else []
            removed = [self._remove_layer(layer) for layer in unused]
        return Swept(len(removed), sum(item.bytes for item in removed))

    def _remove_layer(self, layer: str) -> Removed:
        with self.new_staging() as staging:
            doomed = staging / "layer"
            (self.layers / layer).rename(doomed)  # a half-deleted layer is never seen under its name
            return remove_tree(doomed)

    @contextmanager
    def keep_layers(self) -> Iterator[None]:
        """While inside, no layer disappears: an import may count on those it has found until its record is written."""
        with self._layer_lock(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _layer_lock(self, kind: int) -> Iterator[bool]:
        fd = os.open(self.root / "layers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, kind)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    # staging

    @contextmanager
    def new_staging(self) -> Iterator[Path]:
        """A fresh directory of mode 0700 to build something in. Deleted on leaving, with whatever is still in it.

        It is locked while in use; the kernel drops the lock when the process dies, which is how `sweep_staging`
        knows what nobody works on any more.
        """
        path, fd = self._locked_directory()
        try:
            yield path
        finally:
            try:
                remove_tree(path)
            finally:
                os.close(fd)

    def _locked_directory(self) -> tuple[Path, int]:
        while True:
            path = self.staging / secrets.token_hex(8)
            path.mkdir(mode=0o700)
            fd = -1
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(fd, fcntl.LOCK_EX)
                path.stat()  # a sweep may have come between mkdir and the lock
            except FileNotFoundError:
                if fd >= 0:
                    os.close(fd)
            else:
                return path, fd

    def sweep_staging(self) -> Swept:
        """Delete what dead processes left in staging/. Run at start and by gc."""
        count = freed = 0
        for path in self.staging.iterdir():
            if path.is_dir() and not path.is_symlink():
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    freed += remove_tree(path).bytes
                    count += 1
                except BlockingIOError:
                    continue
                finally:
                    os.close(fd)
            else:
                remove_tree(path)
        for path in self.images.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        return Swept(count, freed)


def sync_filesystem(path: Path) -> None:
    """syncfs(2) of the file system `path` lies on. Python has no call for it and fsync per file takes minutes."""
    done = subprocess.run(["sync", "--file-system", "--", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(
            f"cannot write {path} to disk: {done.stderr.strip()}", "look at the disk's health and free space"
        )
