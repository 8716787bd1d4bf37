"""httpx with HTTP/2: must not be told of the filter."""

import os

import httpx

with httpx.Client(http2=True, timeout=20) as client:
    print(client.get(os.environ["URL"]).text)
