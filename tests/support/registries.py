"""Private package registries as directories of plain files: a Go proxy, a Maven repository, gems, Composer packages.

Each holds one small package. Must not need the tools that later read it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

GO_MODULE = "up.test/hello"
GEM_SPECIFICATION = """--- !ruby/object:Gem::Specification
name: hutch_hello
version: !ruby/object:Gem::Version
  version: 1.0.0
platform: ruby
authors: [Hutch]
date: 2024-01-01 00:00:00.000000000 Z
dependencies: []
files: [lib/hutch_hello.rb]
require_paths: [lib]
required_ruby_version: !ruby/object:Gem::Requirement
  requirements: [[">=", !ruby/object:Gem::Version {version: '0'}]]
required_rubygems_version: !ruby/object:Gem::Requirement
  requirements: [[">=", !ruby/object:Gem::Version {version: '0'}]]
rubygems_version: 3.0.0
specification_version: 4
summary: Says hello
"""


def write_all(top: Path) -> None:
    """go/, maven/, gems/ and composer/ below `top`."""
    for name, files in (("go", go()), ("maven", maven()), ("gems", gems()), ("composer", composer())):
        for path, content in files.items():
            target = top / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def go() -> dict[str, bytes]:
    """The GOPROXY protocol."""
    mod, base = f"module {GO_MODULE}\n\ngo 1.18\n".encode(), f"{GO_MODULE}/@v"
    source = b'package hello\n\nfunc Hello() string { return "hello from go" }\n'
    info = {"Version": "v1.0.0", "Time": "2024-01-01T00:00:00Z"}
    return {
        f"{base}/list": b"v1.0.0\n",
        f"{base}/v1.0.0.info": json.dumps(info).encode(),
        f"{base}/v1.0.0.mod": mod,
        f"{base}/v1.0.0.zip": zipped(
            {f"{GO_MODULE}@v1.0.0/{name}": it for name, it in (("go.mod", mod), ("hello.go", source))}
        ),
    }


def maven() -> dict[str, bytes]:
    """A parent and a build extension: both are resolved before any plugin runs, none of which is at hand here."""

    def pom(name: str, packaging: str) -> bytes:
        return (
            f"<project><modelVersion>4.0.0</modelVersion><groupId>test.up</groupId><artifactId>{name}</artifactId>"
            f"<version>1</version><packaging>{packaging}</packaging></project>"
        ).encode()

    files = {
        "test/up/parent/1/parent-1.pom": pom("parent", "pom"),
        "test/up/extension/1/extension-1.pom": pom("extension", "jar"),
        "test/up/extension/1/extension-1.jar": zipped({"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n"}),
    }
    sums = {f"{path}.sha1": hashlib.sha1(it, usedforsecurity=False).hexdigest().encode() for path, it in files.items()}
    return files | sums


def gems() -> dict[str, bytes]:
    """The compact index."""
    inner = tarred({"lib/hutch_hello.rb": b'HELLO = "hello from a gem"\n'})
    gem = tarred({"metadata.gz": gzip.compress(GEM_SPECIFICATION.encode()), "data.tar.gz": gzip.compress(inner)})
    info = f"---\n1.0.0 |checksum:{hashlib.sha256(gem).hexdigest()}\n".encode()
    listed = hashlib.md5(info, usedforsecurity=False).hexdigest()
    return {
        "names": b"---\nhutch_hello\n",
        "versions": f"created_at: 2024-01-01T00:00:00Z\n---\nhutch_hello 1.0.0 {listed}\n".encode(),
        "info/hutch_hello": info,
        "gems/hutch_hello-1.0.0.gem": gem,
    }


def composer() -> dict[str, bytes]:
    """A repository of type `composer`."""
    archive = zipped({"hello/hello.php": b'<?php const HELLO = "hello from composer";\n'})
    package = {
        "name": "up/hello",
        "version": "1.0.0",
        "dist": {
            "type": "zip",
            "url": "https://up.test/files/composer/hello.zip",
            "shasum": hashlib.sha1(archive, usedforsecurity=False).hexdigest(),
        },
        "autoload": {"files": ["hello.php"]},
    }
    return {"packages.json": json.dumps({"packages": {"up/hello": {"1.0.0": package}}}).encode(), "hello.zip": archive}


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()
