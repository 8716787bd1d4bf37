"""requests, which has a list of authorities of its own (certifi): must not be told of the filter."""

import os

import requests

print(requests.get(os.environ["URL"], timeout=20).text)
