"""A stand-in for the daemon that speaks its API over a Unix socket: real HTTP, real processes and terminals, no sandbox.

For the command line's tests only. It runs what it is told as itself, in a temporary directory, so never start it for more.
Started as `python contract_server.py SOCKET DIRECTORY`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import contract_execs
import contract_images
import contract_network
import contract_secrets
import contract_tasks
import uvicorn
from contract_images import Refusal
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

app = FastAPI()
for part in (contract_images, contract_tasks, contract_execs, contract_network):
    app.include_router(part.router)


@app.exception_handler(Refusal)
async def refuse(_: Request, error: Refusal) -> JSONResponse:
    return JSONResponse({"error": {"message": error.message, "remedy": error.remedy}}, error.status)


@app.get("/health")
async def health() -> Any:
    return {"status": "ok", "version": "0.test", "pid": os.getpid()}


@app.get("/doctor")
async def doctor() -> Any:
    return {"checks": [{"name": "kernel", "ok": True, "level": "required", "detail": "6.18", "remedy": ""}]}


@app.post("/gc")
async def gc() -> Any:
    return {"snapshots": 3, "layers": 1, "tasks": 0, "bytes": 5 * 1024 * 1024}


if __name__ == "__main__":
    app.mount("/", contract_secrets.app(Path(sys.argv[2])))  # what nobody else answers
    uvicorn.run(app, uds=sys.argv[1], log_level="warning", timeout_graceful_shutdown=1)
    for left in contract_tasks.tasks.values():
        if left.process and left.process.returncode is None:
            os.killpg(left.process.pid, signal.SIGKILL)
