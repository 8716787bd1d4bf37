"""The standard library: must not be told of the filter."""

import urllib.request

print(urllib.request.urlopen("https://up.test/hello/python_urllib", timeout=20).read().decode())
