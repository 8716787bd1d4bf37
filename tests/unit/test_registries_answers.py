"""What indexes answer → hosts of downloads: tables, answers cut off anywhere, hostile ones.

Must not touch the network or name a registry.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.registries.answers import MAX_ERROR, MAX_HOSTS, Answer, believed, downloads, hosts
from proxy.registries.index import Kind, clean

PAGE = "https://index.test/simple/pip/"
SIMPLE_JSON = json.dumps(
    {
        "name": "pip",
        "meta": {"api-version": "1.1", "url": "https://no.test/"},
        "files": [
            {"filename": "pip-1.whl", "url": "https://files.test/a/pip-1.whl", "hashes": {}},
            {"filename": "pip-1.tar.gz", "url": "https://old.test:8443/pip-1.tar.gz#sha256=x"},
            {"filename": "pip-2.whl", "url": "../../packages/pip-2.whl"},
        ],
    }
)
SIMPLE_HTML = """<!DOCTYPE html><html><head><link href="https://no.test/style.css"></head><body>
<a href="https://files.test/a/pip-1.whl#sha256=x" data-requires-python="&gt;=3">pip-1.whl</a>
<A class=x HREF = 'https://old.test/pip-1.tar.gz'>old</A><a href=pip-2.zip>two</a>
<a href="https://no.test/about">about</a><a href="mailto:me@no.test/x.whl">write</a></body></html>"""
PACKUMENT = json.dumps(
    {
        "name": "npm",
        "dist-tags": {"latest": "2.0.0"},
        "homepage": "https://no.test/x.tgz",
        "versions": {
            "1.0.0": {"dist": {"shasum": "0", "tarball": "https://tars.test/npm/-/npm-1.0.0.tgz"}},
            "2.0.0": {"dist": {"tarball": "/npm/-/npm-2.0.0.tgz"}},
        },
    }
)


@pytest.mark.parametrize(
    ("kind", "text", "page", "expected"),
    [
        ("pip", SIMPLE_JSON, PAGE, ["files.test", "old.test:8443", "index.test"]),
        ("pip", SIMPLE_JSON.replace("/", "\\/"), PAGE, ["files.test", "old.test:8443", "index.test"]),
        ("pip", SIMPLE_HTML, PAGE, ["files.test", "old.test", "index.test"]),
        ("links", SIMPLE_HTML, "https://wheels.test/list.html", ["files.test", "old.test", "wheels.test"]),
        ("npm", PACKUMENT, "https://npm.test/npm", ["tars.test", "npm.test"]),
        ("mirrors", "http://a.test/debian/\nhttps://b.test\tpriority:1\n#x\nfile:/x\n", "http://m.test/l", ["a.test", "b.test"]),
        ("pip", "", PAGE, []),
        ("npm", '{"error": "not found"}', "https://npm.test/npm", []),
        ("pip", '<a href="https://10.0.0.1/x.whl">', PAGE, []),
        ("pip", '<a href="https://[/x.whl">', PAGE, []),
        ("pip", '<a href="https://u:p@files.test/x.whl">', PAGE, ["files.test"]),
    ],
)  # fmt: skip
def test_downloads(kind: Kind, text: str, page: str, expected: list[str]) -> None:
    assert hosts(downloads(kind, text, page)) == expected


@given(st.integers(0, len(SIMPLE_JSON)), st.integers(0, len(SIMPLE_HTML)), st.integers(0, len(PACKUMENT)))
def test_an_answer_may_be_cut_off_anywhere(first: int, second: int, third: int) -> None:
    whole = {"files.test", "old.test", "old.test:8443", "index.test"}
    assert set(hosts(downloads("pip", SIMPLE_JSON[:first], PAGE))) <= whole
    assert set(hosts(downloads("pip", SIMPLE_HTML[:second], PAGE))) <= whole
    assert set(hosts(downloads("npm", PACKUMENT[:third], PAGE))) <= {"tars.test", "index.test"}


@given(st.sampled_from(("pip", "links", "npm", "mirrors")), st.text(), st.text())
def test_whatever_is_answered_only_clean_urls_come_out(kind: Kind, before: str, after: str) -> None:
    text = f'{before}<a href="{after}.whl"> "tarball": "{after}" \n{after}'
    for url in downloads(kind, text, PAGE):
        assert url == clean(url)
        assert url


SIZE = 1 << 20
MONSTERS = [
    "href = " * (SIZE // 7), 'href="' + "x" * SIZE, "href" + " " * SIZE, "{" + '"url":' * (SIZE // 6), '{"url": "' + "\\" * SIZE,
    '{"tarball": "' + "a" * SIZE, "{" + '"tarball":"\\' * (SIZE // 12), "<" * SIZE, " " * SIZE, "\n" * SIZE, "[" * SIZE,
    "href=//" + ".whl" * (SIZE // 4), "href=x.whl " * (SIZE // 11),
    "http://a.test " * (SIZE // 14), "http://a.test\n" * (SIZE // 14),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MONSTERS)))
def test_monsters_are_read_in_no_time(number: int) -> None:
    started = time.process_time()
    for kind in ("pip", "links", "npm", "mirrors"):
        hosts(downloads(kind, MONSTERS[number], PAGE))
    assert time.process_time() - started < 4


def test_one_index_names_a_limited_number_of_hosts() -> None:
    text = "".join(f'<a href="https://h{number}.test/x.whl">' for number in range(1000))
    assert len(hosts(downloads("pip", text, PAGE))) == MAX_HOSTS


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"hosts": ["b.test", "a.test:8443"]}, Answer(("b.test", "a.test:8443"))),
        ({"hosts": []}, Answer(())),
        ({"hosts": ["A.test", "a.test:443", "10.0.0.1", "a b", "x/../y", "b@a.test", "a.test"]}, Answer(("a.test",))),
        ({"hosts": [], "error": "it\x1b[2Jfailed\n"}, Answer((), "it\\x1b[2Jfailed\\x0a")),
        ({"hosts": ["a.test"], "error": "no"}, Answer((), "no")),
        ({"hosts": ["a.test", 1]}, Answer((), "nobody could ask it")),
        ({"hosts": "a.test"}, Answer((), "nobody could ask it")),
        ({}, Answer((), "nobody could ask it")),
        (None, Answer((), "nobody could ask it")),
        ([], Answer((), "nobody could ask it")),
    ],
)
def test_the_process_that_asked_is_not_believed_either(said: object, answer: Answer) -> None:
    assert believed(said) == answer


def test_what_it_says_is_bounded() -> None:
    assert len(believed({"error": "x" * 10_000}).error) == MAX_ERROR
    assert len(believed({"hosts": [f"h{number}.test" for number in range(1000)]}).hosts) == MAX_HOSTS
