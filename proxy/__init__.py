"""The filter: the unprivileged processes that accept what arrives in the gateway, decide, and dial out.

It imports neither `sandbox` nor `rootfs`, runs no program and writes no file. README.md has the picture.
"""
