"""Server-sent events, each printed with the seconds from its sending to its arrival."""

import sys
import time

import httpx

with (
    httpx.Client(http2=sys.argv[1] == "2", timeout=20) as client,
    client.stream("GET", "https://up.test/events") as answer,
):
    assert answer.headers["content-type"].startswith("text/event-stream")
    for line in answer.iter_lines():
        if line.startswith("data: "):
            print(time.time() - float(line.removeprefix("data: ")), flush=True)
