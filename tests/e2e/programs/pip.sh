cd "$(mktemp -d)"
pip download --quiet --no-cache-dir --no-deps --retries 0 --dest . idna==3.10
ls
