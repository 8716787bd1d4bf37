"""httpx, which has a list of authorities of its own (certifi): must not be told of the filter."""

import httpx

print(httpx.get("https://up.test/hello/python_httpx", timeout=20).text)
