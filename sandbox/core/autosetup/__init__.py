"""Automatic setup: what a repository's manifests and lock files say has to be installed, and the script that does it.

    rootfs/manifests.py (in the git job)  files → facts ─▶ tree.py  ─▶ one file per ecosystem: facts → steps ─▶ plan.py ─▶ script

Pure: no I/O, nothing of the repository is read here but the facts. A name out of it reaches a script in quotes only.
"""
