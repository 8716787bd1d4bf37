"""The end of a filter and the start of the next on the same sockets; and hellos that it can't serve.

Must not share a laboratory between tests: each one's leaks are looked for.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.filter_lab import PUBLIC, Lab, lab


@pytest.fixture
def own() -> Iterator[Lab]:
    """A laboratory of the test's own, whose filter may die. What it leaves behind is seen by the leak check."""
    with lab(sandboxes=1) as laboratory:
        yield laboratory


def test_nothing_leaves_without_the_filter_and_another_one_takes_over(own: Lab) -> None:
    own.policy("unrestricted")
    assert own.curl("https://up.test/").returncode == 0
    own.filter.kill()
    own.upstream.forget()
    for url in ("http://up.test/", "https://up.test/", f"http://{PUBLIC}/"):
        assert own.curl("--max-time", "5", "--resolve", "up.test:443:198.18.0.1", url).returncode != 0
    assert own.upstream.seen == []
    own.restart()
    own.policy("unrestricted")
    assert own.curl("https://up.test/").returncode == 0


def test_it_ends_with_its_daemon_and_on_a_signal(own: Lab) -> None:
    own.filter.close()
    assert own.filter.process.returncode == 0
    own.restart()
    own.filter.process.send_signal(signal.SIGTERM)
    assert own.filter.process.wait(10) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [({"upstream_trust": "/nonexistent"}, "can't be read"), ({"upstream_trust": "/etc/hostname"}, "can't be read"),
     ({"ca_pem": "x"}, "ca_pem is not a key"), ({"private_names": ["10.0.0.1"]}, "address")],
)  # fmt: skip
def test_it_refuses_what_it_cannot_use(own: Lab, change: dict[str, object], words: str) -> None:
    own.filter.close()
    own.filter = own.start(**change)
    assert words in own.filter.hello["error"]
    assert own.curl("--max-time", "3", "http://up.test/").returncode != 0
