"""Logins for a fetch: the URL's own, ~/.netrc, the ssh agent, the default ssh keys. And the host's TLS trust.

Must not write a credential anywhere, and hands the URL's login to no other host than the URL's (redirects!).
"""

import netrc
import os
import pwd
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pygit2
from pygit2.enums import ConfigLevel, CredentialType

from rootfs.git_errors import RepositoryError
from rootfs.git_url import Source
from rootfs.git_user import User

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_SSH_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def home() -> Path:
    """The home of the user this runs as, also where a service manager sets no HOME."""
    return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def prepare_library(connect_seconds: int = 20, silent_seconds: int = 120) -> None:
    """Settings of libgit2 for this process: trust of the host, time limits, fsync. Once, before anything is opened."""
    pygit2.settings.homedir = str(home())
    bundle = trust_bundle()
    if bundle:
        # The wheel brings its own OpenSSL, whose built-in path is that of the machine it was built on.
        pygit2.settings.set_ssl_cert_locations(bundle, None)
    pygit2.settings.server_connect_timeout = connect_seconds * 1000
    pygit2.settings.server_timeout = silent_seconds * 1000
    pygit2.settings.enable_fsync_gitdir(True)


def forget_roots_settings() -> None:
    """For the rest of this process, which works for another user: root has rewritten URLs and set proxies for himself alone."""
    for level in (ConfigLevel.GLOBAL, ConfigLevel.XDG):
        pygit2.settings.search_path[level] = "/nonexistent"


def trust_bundle() -> str | None:
    """The PEM bundle of the host: what SSL_CERT_FILE says, else where the distributions keep it."""
    wanted = os.environ.get("SSL_CERT_FILE") or os.environ.get("GIT_SSL_CAINFO")
    candidates = [wanted] if wanted else [*_BUNDLES, ssl.get_default_verify_paths().cafile or ""]
    return next((path for path in candidates if path and Path(path).is_file()), None)


class Credentials:
    """Answers libgit2's questions one after the other; each login is tried once, then it is over."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._logins: Iterator[Any] | None = None
        self._asked: CredentialType | None = None

    def next(self, url: str, username: str | None, allowed: CredentialType) -> Any:
        """A pygit2 credential for `url`. RepositoryError once nothing is left to try."""
        if allowed & CredentialType.USERNAME:
            return pygit2.Username(username or self._source.username or "git")
        if self._logins is None or self._asked != allowed:
            self._logins, self._asked = self._candidates(url, username, allowed), allowed
        login = next(self._logins, None)
        if login is None:
            raise self._refused(allowed)
        return login

    def _candidates(self, url: str, username: str | None, allowed: CredentialType) -> Iterator[Any]:
        if allowed & CredentialType.SSH_KEY:
            yield from self._ssh_logins(username or self._source.username or "git")
        if allowed & CredentialType.USERPASS_PLAINTEXT:
            yield from self._passwords(url)

    def _ssh_logins(self, user: str) -> Iterator[Any]:
        if self._source.user is not None:
            yield from self._users_ssh_logins(user, self._source.user)
            return
        if os.environ.get("SSH_AUTH_SOCK"):
            yield pygit2.KeypairFromAgent(user)
        for name in _SSH_KEYS:
            key = home() / ".ssh" / name
            if key.is_file():
                public = key.with_suffix(".pub")
                yield pygit2.Keypair(user, str(public) if public.is_file() else None, str(key), "")

    def _users_ssh_logins(self, login: str, user: User) -> Iterator[Any]:
        """The keys of the user for whom this is fetched, read as he. His agent can't be reached from here."""
        for name in _SSH_KEYS:
            if key := user.read(user.home / ".ssh" / name):
                yield pygit2.KeypairFromMemory(login, None, key.decode("ascii", "replace"), "")

    def _passwords(self, url: str) -> Iterator[Any]:
        host = host_of(url)
        source = self._source
        if (source.username or source.password) and host == source.host and _no_downgrade(source.location, url):
            # A token alone may stand in the place of the user: then the password is empty.
            yield pygit2.UserPass(source.username or "", source.password or "")
        login = _users_netrc_login(source.user, host) if source.user else _netrc_login(home() / ".netrc", host)
        if login and not url.startswith("http://"):
            yield pygit2.UserPass(*login)

    def _refused(self, allowed: CredentialType) -> RepositoryError:
        user = self._source.user
        who, place = (user.name, user.home) if user else ("root", home())
        message = f"cannot log in to {self._source.location}: no credential was accepted"
        if allowed & CredentialType.SSH_KEY:
            return RepositoryError(
                message,
                f"give {who} an ssh agent or a key without passphrase as {place}/.ssh/id_ed25519 that the server knows",
            )
        return RepositoryError(message, f"put a token into {place}/.netrc or into the URL (https://user:token@host/…)")


def host_of(url: str) -> str | None:
    """The host of a URL, lower case, as libgit2 hands it to the callback (scp-like ones included)."""
    if "://" in url:
        return urlsplit(url).hostname
    return url.split(":", 1)[0].rpartition("@")[2].lower()


def _no_downgrade(wanted: str, asked: str) -> bool:
    return not (wanted.startswith("https://") and asked.startswith("http://"))


def _users_netrc_login(user: User, host: str | None) -> tuple[str, str] | None:
    text = user.read(user.home / ".netrc")
    if text is None:
        return None
    fd = os.memfd_create("netrc")  # the parser wants a file
    try:
        os.write(fd, text)
        return _netrc_login(Path(f"/proc/self/fd/{fd}"), host)
    finally:
        os.close(fd)


def _netrc_login(path: Path, host: str | None) -> tuple[str, str] | None:
    try:
        found = netrc.netrc(str(path)).authenticators(host or "")
    except (OSError, ValueError, netrc.NetrcParseError):
        return None  # no file, or one that curl and git couldn't read either
    return (found[0], found[2]) if found else None
