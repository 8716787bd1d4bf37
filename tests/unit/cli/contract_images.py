"""The images' half of contract_server.py, and what both halves share: refusals and lines of JSON.

It must not keep what is uploaded: only the size is looked at.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

router = APIRouter()
images: dict[str, dict[str, Any]] = {}


class Refusal(Exception):
    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        self.status, self.message, self.remedy = status, message, remedy


def line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def output(stream: str, data: bytes, **more: str) -> dict[str, Any]:
    return {"type": "output", "stream": stream, "data": base64.b64encode(data).decode(), **more}


@router.get("/images")
async def all_images() -> Any:
    return {"images": list(images.values())}


@router.get("/images/{name}")
async def one_image(name: str) -> Any:
    if name not in images:
        raise Refusal(404, f"there is no image {name!r}", "see: hutch image ls")
    return images[name]


@router.delete("/images/{name}", status_code=204)
async def remove_image(name: str) -> Response:
    await one_image(name)
    del images[name]
    return Response(status_code=204)


def _image(name: str, size: int, source: str, entrypoint: bool = False) -> dict[str, Any]:
    argv = ["tini", "--\x1b"] if entrypoint else []
    config = {"env": {"PATH": "/usr/bin"}, "workdir": "/", "user": "", "entrypoint": argv, "cmd": []}
    made = {"name": name, "digest": "sha256:00", "layers": ["l1"], "config": config, "created": "2026-01-01T00:00:00Z"}
    images[name] = {**made, "size": size, "source": source}
    return images[name]


@router.post("/images/build")
async def build(request: Request) -> StreamingResponse:
    spec = await request.json()

    async def lines() -> AsyncIterator[bytes]:
        yield line({"progress": "downloading packages"})
        yield line({"progress": "unpacking", "done": 1, "total": 2})
        if spec["name"] == "broken":
            yield line({"error": {"message": "cannot unpack a package: the disk is full", "remedy": "run: hutch gc"}})
        elif spec["name"] != "silent":
            yield line({"result": _image(spec["name"], 1000, "built from Debian")})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.put("/images/{name}")
async def import_image(name: str, request: Request, entrypoint: bool = True) -> StreamingResponse:
    if name == "refused":
        raise Refusal(413, "the disk has no room for that archive", "run: hutch gc")
    size = 0
    async for data in request.stream():
        size += len(data)

    async def lines() -> AsyncIterator[bytes]:
        yield line({"progress": "unpacking"})
        yield line({"result": _image(name, size, request.headers["x-hutch-source"], entrypoint)})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.post("/images/pull")
async def pull_image(request: Request) -> StreamingResponse:
    spec = await request.json()

    async def lines() -> AsyncIterator[bytes]:
        yield line({"result": _image(spec["name"], 1, spec["reference"], spec["entrypoint"])})

    return StreamingResponse(lines(), media_type="application/x-ndjson")
