"""The artifact cache: a process that fetches for all sandboxes what package managers ask for again and again.

    worker ══socketpair══▶ client ─ ask ─ fetch ─┬─ rules: fresh? ──▶ store (files below one directory fd) ─┐
                                                 └─ upstream ══TLS══▶ registry ─ spool ─────────────────────┴─▶ client

    ask       what a worker wants for one request: a URL and the few fields that may shape an answer
    record    what is known of a stored answer: its URL, the fields it was asked with, its fields, when it was new
    spool     the growing file of a download under way, which several clients read
    exchange  one request to a server, and its answer as it comes

It is told which hosts to fetch from by nobody: a worker asks only for hosts that the policy names for it, after every
check. It dials only by dial.py, stores nothing that could be meant for one sandbox alone, and runs no program.
"""
