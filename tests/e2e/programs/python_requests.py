"""requests, which has a list of authorities of its own (certifi): must not be told of the filter."""

import requests

print(requests.get("https://up.test/hello/python_requests", timeout=20).text)
