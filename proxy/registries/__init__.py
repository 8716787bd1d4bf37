"""Where package managers fetch from: their configuration → indexes, what an index answers → the hosts of its downloads.

Must not name a registry: every default is read from the package manager that has it. index.py, pip.py, npm.py, apt.py,
configured.py and answers.py are pure; the process `python -m proxy.registries` (ask.py, get.py) does the asking.

    configuration in the image, variables ──configured()──▶ indexes ──a process without privilege──▶ hosts
"""
