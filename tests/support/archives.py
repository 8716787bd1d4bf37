"""Writes tar, `docker save` and OCI archives byte by byte, the wrong ones too, so that tests share no code with the readers.

Must not import rootfs, nor use tarfile: what is tested may not be tested with itself.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ZEROS = bytes(1024)
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
OTHER = "arm64" if ARCHITECTURE != "arm64" else "amd64"


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def member(
    name: bytes,
    data: bytes = b"",
    kind: bytes = b"0",
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_700_000_000,
    target: bytes = b"",
    size: int | None = None,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
    checksum: int | None = None,
) -> bytes:
    """One member: header, data, padding. `size` may lie."""
    stated = len(data) if size is None else size
    size_field = octal(stated, 12) if stated < 8**11 else b"\x80" + stated.to_bytes(11, "big")
    owners = [octal(number, 8) if number < 8**7 else b"\x80" + number.to_bytes(7, "big") for number in (uid, gid)]
    head = name[:100].ljust(100, b"\0") + octal(mode, 8) + b"".join(owners) + size_field + octal(mtime, 12)
    tail = kind + target[:100].ljust(100, b"\0") + magic + bytes(64)
    tail += octal(device[0], 8) + octal(device[1], 8) + prefix[:155].ljust(155, b"\0") + bytes(12)
    total = sum(head) + sum(tail) + 8 * 32 if checksum is None else checksum
    return head + b"%06o\0 " % total + tail + data + bytes(-len(data) % 512)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header for the member that follows."""
    return member(b"pax", b"".join(pax_record(key, value) for key, value in records.items()), kind)


def pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    length += len(str(length)) - len(str(len(body)))
    return str(length).encode() + body


def directory(name: bytes, mode: int = 0o755, **more: Any) -> bytes:
    return member(name, kind=b"5", mode=mode, **more)


def symlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return member(name, kind=b"2", target=target, mode=0o777, **more)


def hardlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return member(name, kind=b"1", target=target, **more)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + ZEROS


def small_root() -> bytes:
    """A root filesystem of a few files, complete."""
    return tar(
        directory(b"./"),
        directory(b"./etc/"),
        member(b"./etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
        directory(b"./usr/bin/"),
        member(b"./usr/bin/tool", b"#!/bin/sh\n", mode=0o755),
        symlink(b"./bin", b"usr/bin"),
        directory(b"./tmp/", 0o1777),
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Layer:
    """A layer as its tar and as the bytes that are stored."""

    tar: bytes
    stored: bytes

    @classmethod
    def of(cls, data: bytes, compression: str = "") -> Layer:
        return cls(data, compressed(data, compression))


def compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression in ("xz", "zstd"):
        return subprocess.run([compression, "-1", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def config_json(
    layers: Iterable[Layer], config: dict[str, Any] | None = None, architecture: str = ARCHITECTURE
) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(layer.tar)}" for layer in layers]}
    return json.dumps({"architecture": architecture, "os": "linux", "config": config or {}, "rootfs": rootfs}).encode()


def docker_save(layers: list[Layer], config: dict[str, Any] | None = None, **more: Any) -> bytes:
    """The layout of docker before version 25, where equal layers are links; manifest.json comes last, as docker writes it."""
    image = config_json(layers, config, **more)
    name = f"{sha256(image)}.json".encode()
    parts, paths, first = [member(name, image)], [], dict[bytes, bytes]()
    for number, layer in enumerate(layers):
        folder = sha256(b"%d" % number).encode()
        path = folder + b"/layer.tar"
        parts += [directory(folder + b"/"), member(folder + b"/VERSION", b"1.0")]
        if layer.stored in first:
            parts.append(symlink(path, b"../" + first[layer.stored]))
        else:
            parts.append(member(path, layer.stored))
            first[layer.stored] = path
        paths.append(path.decode())
    manifest = [{"Config": name.decode(), "RepoTags": ["x:latest"], "Layers": paths}]
    return tar(*parts, member(b"manifest.json", json.dumps(manifest).encode()))


def blob(data: bytes) -> bytes:
    return member(b"blobs/sha256/" + sha256(data).encode(), data)


def descriptor(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": f"sha256:{sha256(data)}",
        "size": len(data),
        **more,
    }


def oci_parts(layers: list[Layer], config: bytes) -> tuple[bytes, list[bytes]]:
    """The manifest, and all members but the index."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(config, "config.v1+json"),
            "layers": [descriptor(layer.stored, "layer.v1.tar") for layer in layers],
        }
    ).encode()
    blobs = {layer.stored for layer in layers} | {config, manifest}
    return manifest, [blob(data) for data in sorted(blobs)]


def oci(
    layers: list[Layer], config: dict[str, Any] | None = None, *, nested: bool = False, docker: bool = False
) -> bytes:
    """An OCI archive; `nested` puts the manifest into an index beside one for another architecture and an attestation."""
    manifest, parts = oci_parts(layers, config_json(layers, config))
    entries = [descriptor(manifest, "manifest.v1+json")]
    if nested:
        platforms = [
            (manifest, ARCHITECTURE),
            (b'{"not":"here"}', OTHER),
            (b"attestation, never to be read", "unknown"),
        ]
        parts.append(blob(platforms[2][0]))
        inner = json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [
                    descriptor(data, "manifest.v1+json", platform={"os": "linux", "architecture": architecture})
                    for data, architecture in platforms
                ],
            }
        ).encode()
        parts.append(blob(inner))
        entries = [descriptor(inner, "index.v1+json")]
    parts += [member(b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    parts += [member(b"index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())]
    if docker:
        paths = [f"blobs/sha256/{sha256(layer.stored)}" for layer in layers]
        listed = [{"Config": f"blobs/sha256/{sha256(config_json(layers, config))}", "RepoTags": None, "Layers": paths}]
        parts += [member(b"manifest.json", json.dumps(listed).encode())]
    return tar(directory(b"blobs/"), directory(b"blobs/sha256/"), *parts)


def write(path: Path, data: bytes, compression: str = "") -> Path:
    path.write_bytes(compressed(data, compression))
    return path
