"""Configuration that was written to mislead, to leak or to stop the daemon: what comes out is clean, little and soon.

Must not touch the network or name a registry.
"""

from __future__ import annotations

import configparser
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.names import canonical
from proxy.registries import npm, pip
from proxy.registries.configured import MAX_INDEXES, configured
from proxy.registries.index import clean, host_of, prefixes
from tests.support.texts import Texts

PATH = {"PATH": "/opt/python/bin:/usr/local/bin:/usr/bin:/bin"}
NOTHING = Texts({})
PIP_AT = "opt/python/lib/python3.13/site-packages/pip/_internal/models/index.py"
NPM_AT = "usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js"
YARN_AT = "usr/share/yarn/lib/cli.js"

HOSTILE_URLS = [
    "", "https://", "https:///x", "ftp://a.test/", "https://a.test@", "https://a b.test/", "https://a.test\\@b.test/",
    "https://a.test\x00/", "https://a.test/\r\nx", "https://-a.test/", "https://a..test/", "https://a.test:0/",
    "https://a.test:99999/", "https://[::1]/", "https://0x7f.1/", "https://2130706433/", "https://a.test:80:80/",
    "https://a.test/é", "https://\u202ea.test/", "javascript:x", "https://a.test/\x7f", "//a.test/", "https:a.test",
    "https://" + "a" * 3000 + ".test/", "https://a_b.test/", "https://a.test%00.b.test/", "https://*.test/",
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_what_two_programs_could_read_differently_is_no_url(url: str) -> None:
    assert clean(url) == ""
    assert host_of(url) == ""


@pytest.mark.parametrize(
    ("url", "cleaned", "host"),
    [
        ("HTTPS://User:Pass@A.Test.", "https://a.test/", "a.test"),
        ("https://u@b:p@a.test/x", "https://a.test/x", "a.test"),
        ("http://a.test:80/x?token=1#y", "http://a.test:80/x", "a.test"),
        ("http://a.test:443/", "http://a.test:443/", "a.test"),
        ("https://a.test:8443", "https://a.test:8443/", "a.test:8443"),
        ("https://a.test:/", "https://a.test/", "a.test"),
        ("https://bücher.test/", "https://xn--bcher-kva.test/", "xn--bcher-kva.test"),
        ("https://a.test?x", "https://a.test/", "a.test"),
    ],
)
def test_clean(url: str, cleaned: str, host: str) -> None:
    assert (clean(url), host_of(url)) == (cleaned, host)


PLACES = (
    "etc/pip.conf", "root/.npmrc", "root/.yarnrc", "root/.yarnrc.yml", "etc/apt/sources.list",
    "etc/apt/sources.list.d/x.sources", PIP_AT, NPM_AT,
)  # fmt: skip
KEYS = (
    "[global]\nindex-url=",
    "registry=",
    "registry ",
    "npmRegistryServer: ",
    "deb ",
    "Types: deb\nSuites: a\nURIs: ",
    "",
    "",
)
SECRET = "hunter2hunter2"


@given(st.sampled_from(range(len(PLACES))), st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_configured_only_clean_urls_come_out(which: int, before: str, after: str) -> None:
    text = f"{before}\n{KEYS[which]}https://me:{SECRET}@a.test/{after} a b\n{after}"
    for index in configured(Texts({PLACES[which]: text}), PATH, NOTHING, []):
        assert index.url == clean(index.url)
        assert SECRET not in index.url
        for host in index.hosts:
            assert canonical(host.partition(":")[0]) == host.partition(":")[0]


PIECES = [
    *("[global]", "[install]", "index-url", "extra_index_url", "--find-links", "https://a.test/x", "b", "# c", "; c"),
    *(" = ", ":", "=", " ", "\t", "\n", "\n", "\n    ", "]", "[", "#", ";"),
]


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(PIECES), max_size=16))
def test_a_pip_conf_means_what_it_means_to_pip(pieces: list[str]) -> None:
    """pip reads it with RawConfigParser, and ends where that can't."""
    text = "[global]\n" + "".join(pieces)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return
    options = {(section, key): value for section in parser.sections() for key, value in parser.items(section)}
    normal = {(section, key.replace("_", "-").removeprefix("--")): it.split() for (section, key), it in options.items()}
    assert pip.parse(text) == normal


SIZE = 64 << 10  # the largest configuration that is read
MONSTERS = {
    "spaces": "[global]\n" + "x" + " " * SIZE,
    "newlines": "\n" * SIZE,
    "continued": "[global]\nindex-url=x\n" + " y\n" * (SIZE // 3),
    "sections": "[a]\n" * (SIZE // 4),
    "brackets": "deb " + "[" * SIZE,
    "options": "deb " + "[a " * (SIZE // 3),
    "stanzas": "URIs: http://a.test\nSuites: a\n\n" * (SIZE // 32),
    "uris": "Suites: a\nURIs: " + "http://a.test/ " * (SIZE // 15),
    "variables": "registry=" + "${A}" * (SIZE // 4),
    "lines": "registry=${A}${A}${A}${A}${A}${A}${A}${A}\n" * (SIZE // 42),
    "ats": "[global]\nindex-url=https://" + "@" * SIZE,
    "packages": "PyPI=PackageIndex(" * (SIZE // 18),
    "definitions": "'registry',{" * (SIZE // 12),
    "indexes": "[global]\nextra-index-url=" + " ".join(f"https://h{number}.test" for number in range(2000)),
}


@pytest.mark.parametrize("monster", MONSTERS)
def test_monsters_are_read_in_no_time_and_give_little(monster: str) -> None:
    text = MONSTERS[monster]
    files = Texts(dict.fromkeys(PLACES, text) | {f"etc/apt/sources.list.d/{n}.list": text for n in range(200)})
    started = time.process_time()
    found = configured(files, PATH | {"A": "https://a.test/" + "a" * 2000}, NOTHING, [])
    assert time.process_time() - started < 2
    assert len(found) <= MAX_INDEXES


@pytest.mark.parametrize(
    "part", [" ", "\n", "PyPI = PackageIndex(", "'registry', {", "registry: ", "YARN_REGISTRY = ", "'", "\n\t"]
)
def test_monsters_in_place_of_programs(part: str) -> None:
    files = Texts(dict.fromkeys((PIP_AT, NPM_AT, YARN_AT), part * ((8 << 20) // len(part))))
    started = time.process_time()
    for default in (pip.default, npm.default, npm.yarn_default):
        assert default(files, prefixes(PATH)) is None
    assert time.process_time() - started < 5
