"""Registries on a clock of their own: who is asked, when again, what is kept where, and what nobody may learn.

Must not touch the network: `Indexes` stands where the process that asks does, and answers from a table.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy.registries.answers import Answer
from proxy.registries.index import Index
from rootfs.image import Image, ImageConfig
from rootfs.store import Store
from rootfs.system_layer import File, make_system_layer
from sandbox.core.images import Base
from sandbox.core.registries import LIFETIME, LIFETIME_OF_FAILURE, Registries

SECRET = "hunter2hunter2"
PIP_CONF = f"[global]\nindex-url = https://me:{SECRET}@pip.test/{SECRET}/simple\n"
DOWNLOADS = {"pip.test": Answer(("files.test",)), "npm.test:8443": Answer(("tars.test",)), "apt.test": Answer(())}
ALL = ("apt.test", "files.test", "npm.test:8443", "pip.test", "tars.test")
SAID = ("apt.test", "npm.test:8443", "pip.test")


@dataclass
class Indexes:
    """`go`: answers wait for it."""

    answers: dict[str, Answer] = field(default_factory=lambda: dict(DOWNLOADS))
    asked: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    async def __call__(self, indexes: Sequence[Index]) -> list[Answer]:
        self.asked += [index.hosts[0] for index in indexes]
        await self.go.wait()
        if self.fault:
            raise self.fault
        return [self.answers[index.hosts[0]] for index in indexes]


class Lab:
    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.path = directory / "registries.json"
        self.now = 1_000_000.0
        self.indexes = Indexes()
        self.indexes.go.set()
        self.base = self.image({
            "etc/pip.conf": PIP_CONF,
            "root/.npmrc": f"registry=https://npm.test:8443/\n//npm.test:8443/:_authToken={SECRET}\n",
            "etc/apt/sources.list": "deb http://apt.test/debian a b\n",
        })  # fmt: skip

    def image(self, files: dict[str, str], name: str = "x") -> Base:
        layer = make_system_layer(self.store, {path: File(text.encode()) for path, text in files.items()})
        image = Image(name, (layer,), ImageConfig(), "", 0, "test")
        return Base(image, image.layers, has_bash=True)

    def open(self, *deny: str) -> Registries:
        return Registries(self.store, self.path, self.indexes, deny, lambda: self.now)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(limited())


async def settled() -> None:
    """Let what goes on in the background come to its end."""
    await asyncio.sleep(0.1)


def test_the_image_and_its_indexes_together(lab: Lab) -> None:
    async def test() -> None:
        registries = lab.open()
        assert await registries.of(lab.base, {}) == ALL
        assert await registries.of(lab.base, {"PIP_INDEX_URL": "https://apt.test/"}) == (
            "apt.test", "npm.test:8443", "tars.test",
        )  # fmt: skip
        assert sorted(lab.indexes.asked) == ["apt.test", "apt.test", "npm.test:8443", "pip.test"]
        await registries.close()

    run(test())


def test_known_waits_for_nobody_and_has_them_asked(lab: Lab) -> None:
    async def test() -> None:
        lab.indexes.go.clear()
        registries = lab.open()
        assert await registries.known(lab.base, {}) == SAID
        assert await registries.known(lab.base, {}) == SAID
        lab.indexes.go.set()
        await settled()
        assert await registries.known(lab.base, {}) == ALL
        assert sorted(lab.indexes.asked) == sorted(SAID)  # once
        await registries.close()

    run(test())


def test_those_who_ask_together_share_one_look_up_and_one_who_leaves_spoils_nothing(lab: Lab) -> None:
    async def test() -> None:
        lab.indexes.go.clear()
        registries = lab.open()
        askers = [asyncio.create_task(registries.of(lab.base, {})) for _ in range(10)]
        await settled()
        askers[0].cancel()
        await settled()
        lab.indexes.go.set()
        assert await asyncio.gather(*askers[1:]) == [ALL] * 9
        assert sorted(lab.indexes.asked) == sorted(SAID)
        await registries.close()

    run(test())


def test_answers_outlive_the_daemon_and_are_renewed_behind_the_back_of_who_uses_them(lab: Lab) -> None:
    async def test() -> None:
        await lab.open().of(lab.base, {})
        await settled()
        lab.indexes.asked.clear()
        registries = lab.open()
        lab.now += LIFETIME - 1
        assert await registries.of(lab.base, {}) == ALL
        assert lab.indexes.asked == []
        lab.now += 2
        lab.indexes.go.clear()
        lab.indexes.answers["pip.test"] = Answer(("new.test",))
        assert await registries.of(lab.base, {}) == ALL  # the old ones, at once
        await settled()
        assert sorted(lab.indexes.asked) == sorted(SAID)
        lab.indexes.go.set()
        await settled()
        assert "new.test" in await registries.of(lab.base, {})
        assert "files.test" not in await registries.of(lab.base, {})
        await registries.close()

    run(test())


def test_a_failing_index_costs_its_downloads_only_and_is_asked_again_soon(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        registries = lab.open()
        lab.indexes.answers["pip.test"] = Answer((), "it answered with status 503")
        assert await registries.of(lab.base, {}) == ("apt.test", "npm.test:8443", "pip.test", "tars.test")
        notice = "the registry pip.test did not say where its downloads are: it answered with status 503"
        assert await registries.notices(lab.base, {}) == [notice]
        assert notice in caplog.text
        lab.indexes.answers = dict(DOWNLOADS)
        lab.indexes.asked.clear()
        lab.now += LIFETIME_OF_FAILURE + 1
        await registries.of(lab.base, {})
        await settled()
        assert lab.indexes.asked == ["pip.test"]
        assert await registries.of(lab.base, {}) == ALL
        assert await registries.notices(lab.base, {}) == []
        await registries.close()

    run(test())


def test_what_an_index_said_before_it_failed_still_holds(lab: Lab) -> None:
    async def test() -> None:
        registries = lab.open()
        await registries.of(lab.base, {})
        lab.now += LIFETIME + 1
        lab.indexes.answers = dict.fromkeys(DOWNLOADS, Answer((), "it is down"))
        await registries.of(lab.base, {})
        await settled()
        assert await registries.of(lab.base, {}) == ALL
        assert len(await registries.notices(lab.base, {})) == 3
        await registries.close()

    run(test())


@pytest.mark.parametrize("fault", [OSError("no process"), ValueError(), KeyError("x")])
def test_nobody_there_to_ask(lab: Lab, fault: Exception) -> None:
    async def test() -> None:
        lab.indexes.fault = fault
        registries = lab.open()
        assert await registries.of(lab.base, {}) == SAID
        await registries.close()

    run(test())


def test_an_end_while_indexes_are_asked(lab: Lab) -> None:
    async def test() -> None:
        lab.indexes.go.clear()
        registries = lab.open()
        asker = asyncio.create_task(registries.of(lab.base, {}))
        await settled()
        await registries.close()
        assert await asker == SAID
        assert not lab.path.exists()

    run(test())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"x": 1}', b'{"x": {"hosts": 1}}', b"\xff"])
def test_what_was_kept_and_is_broken_counts_as_nothing(lab: Lab, content: bytes) -> None:
    async def test() -> None:
        lab.path.write_bytes(content)
        registries = lab.open()
        assert await registries.of(lab.base, {}) == ALL
        await settled()
        assert len(json.loads(lab.path.read_bytes())) == 3
        await registries.close()

    run(test())


def test_a_clock_that_was_wrong_keeps_nothing_for_ever(lab: Lab) -> None:
    async def test() -> None:
        registries = lab.open()
        lab.now += 10 * LIFETIME
        await registries.of(lab.base, {})
        lab.now -= 10 * LIFETIME
        lab.indexes.asked.clear()
        await registries.of(lab.base, {})
        await settled()
        assert sorted(lab.indexes.asked) == sorted(SAID)
        await registries.close()

    run(test())


@pytest.mark.parametrize(
    ("deny", "left"),
    [
        ("pip.test", ("apt.test", "npm.test:8443", "tars.test")),
        ("test", ()),
        ("*.test", ()),
        ("npm.test:8443", ("apt.test", "files.test", "pip.test")),
        ("npm.test:8444", ALL),
        ("pip.test:8443", ALL),
        ("http://pip.test/", ALL),
        ("https://pip.test/elsewhere/", ALL),
        ("10.0.0.0/8", ALL),
    ],
)
def test_what_the_ceiling_denies_is_not_looked_up(lab: Lab, deny: str, left: tuple[str, ...]) -> None:
    async def test() -> None:
        registries = lab.open(deny)
        assert await registries.of(lab.base, {}) == left
        assert set(lab.indexes.asked) == set(left) - {"files.test", "tars.test"}
        await registries.close()

    run(test())


def test_words_of_the_process_that_asks_forge_no_line(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        lab.indexes.fault = OSError("a\nhutch: \x1b[2Jb")
        registries = lab.open()
        await registries.of(lab.base, {})
        assert "\x1b" not in caplog.text + "".join(await registries.notices(lab.base, {}))
        assert "a\\x0ahutch" in caplog.text
        await registries.close()

    run(test())


def test_no_secret_of_an_url_is_kept_or_told(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        lab.indexes.answers = dict.fromkeys(DOWNLOADS, Answer((), "it is down"))
        registries = lab.open()
        said = [*await registries.of(lab.base, {}), *await registries.notices(lab.base, {})]
        await settled()
        assert SECRET not in caplog.text + lab.path.read_text() + "".join(said)
        await registries.close()

    run(test())


def test_an_image_that_wants_to_be_read_outside_or_for_ever(lab: Lab) -> None:
    async def test() -> None:
        lab.indexes.fault = OSError("nobody there")
        layer = lab.store.layer_path(lab.base.image.layers[0])
        outside = lab.store.root / "outside"
        outside.write_text("[global]\nindex-url = https://outside.test/")
        (layer / "etc/pip.conf").unlink()
        (layer / "etc/pip.conf").symlink_to(f"../../../../..{outside}")
        (layer / "root/.npmrc").write_text("registry=https://large.test/\n" + "\n" * (1 << 20))
        (layer / "etc/apt/sources.list").unlink()
        (layer / "etc/apt/sources.list").mkdir()
        (layer / "etc/apt/sources.list.d").symlink_to("sources.list.d")
        registries = lab.open()
        for env in ({}, {"HOME": "/root/../../../..", "XDG_CONFIG_HOME": "\0"}):
            assert not {"outside.test", "large.test", "apt.test"} & set(await registries.of(lab.base, env))
        await registries.close()

    run(test())
