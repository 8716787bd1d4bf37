"""What stays open when a policy changes, and what of a sandbox lives on when it is dropped. Must not carry a byte."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any, Literal

import pytest

from proxy.destination import Denied
from proxy.passage import Asked, Passage
from proxy.policy import Policy, parse
from proxy.records import Records
from proxy.sandboxes import Sandbox, Sandboxes

ADDRESS = "10.0.0.1"


def policy(access: str, *rules: str, **more: Any) -> Policy:
    return parse({"phase": "agent", "access": access, "rules": list(rules), **more})


OPEN = policy("unrestricted")


def passage(how: Literal["splice", "inspect", "relay"], port: int = 443, *, tls: bool = True) -> Passage:
    sandbox = Sandbox(ADDRESS, OPEN)
    return Passage(sandbox, "up.test", port, tls, how, "", b"", Records(lambda: 0.0), task=None)


@pytest.mark.parametrize(
    ("how", "port", "tls", "new", "stays"),
    [
        ("splice", 443, True, OPEN, True),
        ("splice", 443, True, policy("off"), False),
        ("splice", 443, True, policy("limited", "other.test"), False),
        ("splice", 443, True, policy("limited", "up.test"), False),  # it would be inspected now
        ("splice", 443, True, policy("limited", "up.test mode=splice"), True),
        ("splice", 443, True, policy("unrestricted", "deny up.test"), False),
        ("splice", 443, True, policy("unrestricted", "deny https://up.test/private/"), False),
        ("splice", 443, True, policy("unrestricted", "up.test mode=inspect"), False),
        ("splice", 443, True, policy("unrestricted", methods=["GET"]), False),
        ("splice", 443, True, policy("unrestricted", "deny other.test"), True),
        ("splice", 443, True, policy("unrestricted", ceiling=["up.test"]), False),
        ("splice", 8443, True, policy("limited", "up.test mode=splice"), False),
        ("inspect", 443, True, OPEN, True),
        ("inspect", 443, True, policy("limited", "up.test"), True),
        ("inspect", 443, True, policy("limited", "http://up.test/"), False),
        ("inspect", 80, False, policy("limited", "https://up.test/"), False),
        ("inspect", 80, False, policy("limited", "up.test methods=GET"), True),
        ("inspect", 443, True, policy("off", "up.test"), False),
        ("relay", 22, False, policy("limited", "tcp://up.test:22"), True),
        ("relay", 22, False, policy("unrestricted", "tcp://up.test:22"), True),
        ("relay", 22, False, policy("unrestricted"), False),
        ("relay", 22, False, policy("limited", "up.test:22"), False),
        ("relay", 22, False, policy("limited", "tcp://up.test:23"), False),
        ("relay", 22, False, policy("limited", "tcp://up.test:22", "deny up.test"), False),
        ("relay", 22, False, policy("off", "tcp://up.test:22"), False),
    ],
)
def test_a_connection_under_another_policy(how: Any, port: int, tls: bool, new: Policy, stays: bool) -> None:
    assert passage(how, port, tls=tls).permitted(new) is stays


@pytest.mark.parametrize(
    ("new", "stays"),
    [
        (policy("limited", "up.test"), True),
        (policy("limited", "up.test", methods=["POST"]), True),
        (policy("limited", "up.test", methods=["GET", "HEAD", "OPTIONS"]), False),
        (policy("limited", "https://up.test/other/"), False),
        (policy("limited", "https://up.test/a/"), True),
        (policy("limited", "up.test", "deny https://up.test/a/"), False),
        (policy("limited", "up.test", "deny up.test methods=POST"), False),
    ],
)
def test_a_request_under_way(new: Policy, stays: bool) -> None:
    busy = passage("inspect")
    busy.requests["a"] = Asked("GET", "/a/", ())
    busy.requests["b"] = Asked("POST", "/a/b", (("content-length", "3"),))
    # One that doesn't fit ends them all: what is still to come of its body can't be told from the others'.
    assert busy.permitted(new) is (stays and busy.decide_request(busy.requests["a"], new).allowed)


def test_networks_that_a_connection_leads_into() -> None:
    for how in ("splice", "inspect"):
        connection = passage(how)  # type: ignore[arg-type]
        connection.addresses.add(ip_address("10.1.2.3"))
        assert connection.permitted(policy("unrestricted", "deny 10.2.0.0/16"))
        assert not connection.permitted(policy("unrestricted", "deny 10.1.0.0/16"))
        assert not connection.permitted(policy("unrestricted", ceiling=["10.1.2.3"]))


def test_a_policy_that_came_while_dialling() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = passage("splice")
        with socket.create_connection(listener.getsockname()) as server:
            connection.dialled(server)
        assert connection.addresses == {ip_address("127.0.0.1")}
        connection.sandbox.policy = policy("unrestricted", "deny 127.0.0.0/8")
        server = socket.create_connection(listener.getsockname())
        with pytest.raises(Denied):
            connection.dialled(server)
        assert server.fileno() == -1


class Open:
    """A connection that notes its end."""

    aborted: bool = False
    task: asyncio.Task[None] | None = None

    def permitted(self, policy: Policy) -> bool:
        return policy.access != "off"

    def abort(self) -> None:
        self.aborted = True


def known() -> tuple[Sandboxes, Sandbox, Open]:
    sandboxes, connection = Sandboxes(), Open()
    sandboxes.set(ADDRESS, OPEN)
    sandbox = sandboxes.get(ADDRESS)
    assert sandbox is not None
    sandbox.connections.add(connection)
    return sandboxes, sandbox, connection


def test_a_narrower_policy_ends_connections() -> None:
    sandboxes, sandbox, connection = known()
    sandboxes.set(ADDRESS, policy("limited", "example.com"))
    assert not connection.aborted
    sandboxes.set(ADDRESS, policy("off"))
    assert connection.aborted
    assert sandboxes.get(ADDRESS) is sandbox


def test_a_dropped_sandbox_allows_nothing_to_who_still_holds_it() -> None:
    sandboxes, sandbox, connection = known()
    sandboxes.drop(ADDRESS)
    sandboxes.drop(ADDRESS)
    assert sandboxes.get(ADDRESS) is None
    assert connection.aborted
    late = passage("splice")
    late.sandbox = sandbox
    assert not late.decide().allowed
    sandboxes.set(ADDRESS, OPEN)
    assert sandboxes.get(ADDRESS) is not sandbox, "the next one with this address starts from nothing"


def test_an_abort_before_the_dial_ends_the_dialling() -> None:
    async def test() -> bool:
        connection = passage("splice")
        connection.task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        connection.abort()
        await asyncio.wait([connection.task])
        return connection.task.cancelled()

    assert asyncio.run(test())
