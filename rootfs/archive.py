"""What kind of archive is this, and where in it are the layers? For plain tars, `docker save` and OCI archives.

Must not write anything but the scratch file it is given: runs in the reader's cage. What it says is checked again by the
import job (layers' digests by whoever reads them, the config by ImageConfig).

    first member ─ 'blobs/…', 'oci-layout', '<64 hex>/…', 'manifest.json' … ─▶ container archive ─▶ index.json or manifest.json
                 └ anything else ─▶ plain root filesystem, one layer
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootfs.compression import DigestStream, Region, RegionStream, detect
from rootfs.confine import drop_everything, run_confined
from rootfs.entries import clean_path
from rootfs.errors import ArchiveError, shown
from rootfs.image import ImageConfig, this_architecture
from rootfs.job import Progress
from rootfs.tar import Kind, members

_CONTAINER = re.compile(
    rb"(oci-layout|index\.json|manifest\.json|repositories|blobs(/.*)?|[0-9a-f]{64}(\.json|\.tar|/.*)?)"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MEMBERS_MAX = 10_000
_JSON_MAX = 8 << 20
_LAYERS_MAX = 250
_NESTING_MAX = 4
_LINKS_MAX = 4
_AGAIN = "save the image again"
_HEAD = 16


@dataclass(frozen=True, slots=True)
class LayerRef:
    """One layer inside an archive: where its bytes are, and what digests they must have."""

    region: Region
    diff_id: str  # sha256 of the uncompressed tar, 64 hex digits
    blob: str  # sha256 of the bytes as they are stored; '' when the archive doesn't state it


@dataclass(frozen=True, slots=True)
class Found:
    """A container archive's image."""

    config: ImageConfig
    layers: tuple[LayerRef, ...]


def is_container(region: Region, limit: int) -> bool:
    """The first member that isn't './' decides; so one look is enough, also into compressed archives."""
    for member in members(DigestStream(region, limit)):
        path = clean_path(member.name)
        if path:
            return bool(_CONTAINER.fullmatch(path))
    raise ArchiveError("it is empty", "make the archive again")


class Files:
    """The files of an uncompressed container archive, by path."""

    def __init__(self, region: Region) -> None:
        self._files: dict[bytes, Region] = {}
        self._links: dict[bytes, bytes] = {}
        stream = RegionStream(region)
        for count, member in enumerate(members(stream, must_end=False)):
            if count > _MEMBERS_MAX:
                raise ArchiveError(f"it has more than {_MEMBERS_MAX} members", _AGAIN)
            path = clean_path(member.name)
            if path in self._files or path in self._links:
                raise ArchiveError(f"it contains {shown(path)} twice", _AGAIN)
            if member.kind is Kind.FILE and member.sparse is None:
                self._files[path] = Region(region.fd, region.offset + stream.position, member.size)
            elif member.kind is Kind.SYMLINK:  # older docker links equal layers to each other
                self._links[path] = os.path.normpath(os.path.join(os.path.dirname(path), member.target))
            elif member.kind is Kind.LINK:
                self._links[path] = clean_path(member.target)
            if stream.skip(member.size) < member.size:
                raise ArchiveError(f"it is cut off in {shown(path)}", "fetch or make it again")

    def __contains__(self, path: str) -> bool:
        return path.encode() in self._files

    def region(self, path: str) -> Region:
        name = path.encode("utf-8", "replace")
        for _ in range(_LINKS_MAX):
            name = self._links.get(name, name)
        if name not in self._files:
            raise ArchiveError(f"it lacks {shown(path)}, which it refers to", _AGAIN)
        return self._files[name]

    def json(self, path: str, digest: str = "") -> Any:
        """A small JSON file; when a digest is stated, its bytes must have it."""
        region = self.region(path)
        if region.size > _JSON_MAX:
            raise ArchiveError(f"its {shown(path)} has {region.size} bytes", _AGAIN)
        data = region.read_at(0, region.size)
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise ArchiveError(
                f"its {shown(path)} doesn't have the digest that is stated for it", "fetch or make it again"
            )
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"its {shown(path)} isn't JSON", _AGAIN) from error


def find_image(files: Files) -> Found:
    """The one image of the archive for this machine."""
    if "index.json" in files:
        return _from_index(files)
    if "manifest.json" in files:
        return _from_manifest_list(files)
    raise ArchiveError(
        "it has neither index.json nor manifest.json", "use `docker save` or an OCI archive, or a plain root filesystem"
    )


def _from_index(files: Files) -> Found:
    """OCI: index.json names manifests or further indexes; docker writes the same since version 25."""
    candidates = _candidates(files, files.json("index.json"), 0)
    fitting = {digest: manifest for digest, manifest in candidates.items() if _fits(files, manifest)}
    if not fitting:
        raise ArchiveError(
            f"it holds no image for linux on {this_architecture()}", "save the image for this machine's architecture"
        )
    if len(fitting) > 1:
        raise ArchiveError(f"it holds {len(fitting)} images", "save just one of them")
    manifest = next(iter(fitting.values()))
    config = files.json(*_blob(_object(manifest, "config").get("digest")))
    layers = [_object_of(item, "layer") for item in _list(manifest, "layers")]
    blobs = [_blob(layer.get("digest")) for layer in layers]
    return _found(config, [(files.region(path), digest) for path, digest in blobs])


def _candidates(files: Files, index: Any, depth: int) -> dict[str, Mapping[str, Any]]:
    """All manifests of an index and the indexes in it that are in the archive, by digest."""
    if depth > _NESTING_MAX:
        raise ArchiveError("its indexes are nested too deeply", _AGAIN)
    found: dict[str, Mapping[str, Any]] = {}
    for item in _list(index, "manifests")[:_LAYERS_MAX]:
        entry = _object_of(item, "manifest")
        platform = entry.get("platform")
        if isinstance(platform, Mapping) and not _is_here(platform):
            continue  # other architectures, and attestations (which call theirs 'unknown')
        path, digest = _blob(entry.get("digest"))
        if path not in files and depth + len(_list(index, "manifests")) > 1:
            continue  # docker lists all platforms and saves one
        document = _object_of(files.json(path, digest), "manifest")
        if "manifests" in document:
            found.update(_candidates(files, document, depth + 1))
        elif "layers" in document:
            found[digest] = document
    return found


def _fits(files: Files, manifest: Mapping[str, Any]) -> bool:
    config = files.json(*_blob(_object(manifest, "config").get("digest")))
    return isinstance(config, Mapping) and _is_here(config) and "rootfs" in config


def _is_here(platform: Mapping[str, Any]) -> bool:
    return platform.get("os") == "linux" and platform.get("architecture") == this_architecture()


def _from_manifest_list(files: Files) -> Found:
    """docker's own layout: manifest.json is a list of images, each with a config file and layer files."""
    images = files.json("manifest.json")
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else 0
        raise ArchiveError(f"it holds {count} images", "save just one of them")
    image = _object_of(images[0], "image")
    path = _string(image.get("Config"), "Config")
    named = re.fullmatch(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?", path)
    config = files.json(path, named[1] if named else "")
    if not isinstance(config, Mapping) or not _is_here(config):
        raise ArchiveError(
            f"its image isn't for linux on {this_architecture()}", "save the image for this machine's architecture"
        )
    return _found(config, [(files.region(_string(item, "layer")), "") for item in _list(image, "Layers")])


def _found(config: Mapping[str, Any], blobs: list[tuple[Region, str]]) -> Found:
    diff_ids = [_digest(item) for item in _list(_object(config, "rootfs"), "diff_ids")]
    if len(diff_ids) != len(blobs) or not diff_ids:
        raise ArchiveError(f"it has {len(blobs)} layers where its config names {len(diff_ids)}", _AGAIN)
    if len(diff_ids) > _LAYERS_MAX:
        raise ArchiveError(f"it has {len(diff_ids)} layers (the limit is {_LAYERS_MAX})", "squash some of them")
    layers = tuple(LayerRef(region, diff_id, blob) for diff_id, (region, blob) in zip(diff_ids, blobs, strict=True))
    return Found(ImageConfig.from_oci(config.get("config")), layers)


def _blob(digest: object) -> tuple[str, str]:
    value = _digest(digest)
    return f"blobs/sha256/{value}", value


def _digest(value: object) -> str:
    found = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ArchiveError(f"it states the digest {shown(str(value))}, which isn't sha256", _AGAIN)
    return found[1]


def _list(value: Any, key: str) -> list[Any]:
    items = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(items, list):
        raise ArchiveError(f"its description has no list '{key}'", _AGAIN)
    return items


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _object_of(value.get(key), key)


def _object_of(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArchiveError(f"its description has no '{what}'", _AGAIN)
    return value


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ArchiveError(f"its description has no '{what}'", _AGAIN)
    return value


def describe(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Request: archive (fd), size, scratch (fd of an empty file), void (fd), limit.

    A compressed container archive is unpacked into the scratch file first, because its parts are needed in an order of their own.
    """
    drop_everything(int(request["void"]))
    region = Region(int(request["archive"]), 0, int(request["size"]))
    limit = int(request["limit"])
    if not is_container(region, limit):
        return {"kind": "plain"}
    scratch = int(request["scratch"])
    compressed = bool(detect(region.read_at(0, _HEAD)))
    if compressed:
        stream = DigestStream(region, limit)
        while piece := stream.read_some(1 << 20):
            while piece:
                piece = piece[os.write(scratch, piece) :]
            progress("decompressing", stream.consumed, region.size)
        region = Region(scratch, 0, stream.produced)
    found = find_image(Files(region))
    layers = [
        {"offset": ref.region.offset, "size": ref.region.size, "diff_id": ref.diff_id, "blob": ref.blob}
        for ref in found.layers
    ]
    return {"kind": "layers", "compressed": compressed, "config": found.config.to_dict(), "layers": layers}


if __name__ == "__main__":
    raise SystemExit(run_confined(describe))
