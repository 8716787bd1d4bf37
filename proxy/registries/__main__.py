"""The process that asks indexes: one JSON request on stdin, one JSON line on stdout. Without privilege, by launch.py's command.

{"indexes": [[kind, URL]…], "hosts": FILE | null, "private": […], "own": […], "trust": FILE}
  → {"result": {"answers": [{"hosts": […], "error"?: "…"}…]}}, in the order of the indexes, or {"error": {…}}
"""

import asyncio
import json
import os
import resource
import sys
from ipaddress import ip_address
from typing import Any

from proxy.dial import Dialler, hosts_file
from proxy.lines import private_place
from proxy.registries.ask import ask_all
from proxy.registries.get import Web
from proxy.registries.index import Index

_MEMORY = 1 << 30


def main() -> int:
    os.environ.clear()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    if os.geteuid() == 0:
        return _say({"error": {"message": "asking indexes as root is refused", "remedy": "start it as another user"}})
    try:
        return _say({"result": {"answers": asyncio.run(_answers(json.load(sys.stdin)))}})
    except (OSError, ValueError) as error:
        return _say({"error": {"message": f"asking the package indexes failed: {error}", "remedy": "try again"}})


async def _answers(request: dict[str, Any]) -> list[dict[str, object]]:
    own = [ip_address(address.partition("%")[0]) for address in request["own"]]
    dialler = Dialler(hosts_file(request["hosts"]), [private_place(text) for text in request["private"]], own)
    return await ask_all(Web(dialler, request["trust"]), [Index(kind, url) for kind, url in request["indexes"]])


def _say(line: dict[str, object]) -> int:
    print(json.dumps(line), flush=True)
    return "error" in line


if __name__ == "__main__":
    # Threads that still resolve a name would hold up an ordinary end.
    code = main()
    os._exit(code)
