"""The standard library: must not be told of the filter."""

import os
import urllib.request

print(urllib.request.urlopen(os.environ["URL"], timeout=20).read().decode())
