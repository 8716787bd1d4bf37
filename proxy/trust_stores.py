"""Trust for programs that don't read the system's certificates (Java, browsers), or whose variables somebody clears.

Pure: the caller reads what an image has, and lays the files over it. Nothing here replaces what an image's author set
up: certificates are added to the stores that are found, and a file of settings that is there already stays.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from proxy.keystore import BadKeystore, add_certificates

# Debian's packages of Java link here.
JAVA_STORE = "etc/ssl/certs/java/cacerts"
# Directories that Java machines are installed in, each one in a directory of its own.
JAVA_PARENTS = (
    *("usr/lib/jvm", "usr/java", "usr/local", "opt", "opt/java", "root/.sdkman/candidates/java"),
    *("usr/local/sdkman/candidates/java", "root/.local/share/mise/installs/java"),
)
# In a Java machine; the second before Java 9.
JAVA_STORES_IN_HOME = ("lib/security/cacerts", "jre/lib/security/cacerts")

_SUDOERS = "etc/sudoers.d/hutch"
ENVIRONMENT = "etc/environment"
_CHROMIUM = ("etc/chromium", "etc/opt/chrome", "etc/opt/chrome_for_testing", "etc/opt/edge", "etc/brave")
FIREFOX = "etc/firefox/policies/policies.json"


def java_files(found: Mapping[str, bytes], additions: Sequence[bytes]) -> dict[str, bytes]:
    """The keystores that an image has, by their real paths, with more certificates. What can't be read is left alone.
    Where Java comes later, from Debian's packages, their hook makes the store out of what the system trusts by then."""
    files = {}
    for path, store in found.items():
        with suppress(BadKeystore):
            files[path] = add_certificates(store, additions)
    return files


def browser_files(ca: bytes, ca_path: str) -> dict[str, bytes]:
    """Policies for Chromium (CACertificates) and Firefox (Certificates), which have their own list of authorities.
    `ca` is its certificate in PEM, and `ca_path` where it lies inside."""
    chromium = json.dumps({"CACertificates": ["".join(ca.decode().split("\n")[1:-2])]}).encode()
    firefox = json.dumps({"policies": {"Certificates": {"Install": [ca_path]}}}).encode()
    return {f"{place}/policies/managed/hutch.json": chromium for place in _CHROMIUM} | {FIREFOX: firefox}


def account_files(environment: bytes, variables: Mapping[str, str]) -> dict[str, bytes]:
    """Variables that survive a change of account: sudo keeps them, and PAM (su, cron, sshd) reads /etc/environment,
    where the image's own lines come last and win."""
    lines = "".join(f'{name}="{value}"\n' for name, value in variables.items()).encode()
    keep = f'Defaults env_keep += "{" ".join(variables)}"\n'.encode()
    return {ENVIRONMENT: lines + environment, _SUDOERS: keep}
