"""httpx with HTTP/2: must not be told of the filter."""

import httpx

with httpx.Client(http2=True, timeout=20) as client:
    print(client.get("https://up.test/hello/python_httpx_http2").text)
