# uv's TLS is rustls.
cd "$(mktemp -d)"
uv pip install --quiet --no-cache --target . idna==3.10
ls -d idna
