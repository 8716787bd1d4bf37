"""Plans and answers on their way between daemon, spawner and the processes that stand by. Needs no root."""

from __future__ import annotations

import errno
import json
import os
import socket

import pytest

from sandbox.inside import messages
from sandbox.inside.plan import GatewayPlan, JoinPlan, LeasePlan, Plan, StandbyPlan, StartPlan, decode, encode

JOIN = JoinPlan(1, (2, 3), ("sh", "-c", "é\n"), {"A": "b=c", "EMPTY": ""}, "/", terminal=5, rows=50)
PLANS: tuple[Plan, ...] = (
    StartPlan((1, 2), 3, 4, 5, (6, 7), 8, 9, 10, ("/bin/true",), {}, "/", {"setup.sh": 12}, {"git/objects": 13}, 11),
    StartPlan((1,), 3, 4, 5, (), 8, 9, 10, ("x",), {}, "/", {}, {}, executable=True, uid=1000, gid=1, groups=(5, 6)),
    JOIN,
    StandbyPlan("1", 1),
    LeasePlan(1 << 30, 1, 2, "first", 3, (4, 5)),
    GatewayPlan(1),
)  # fmt: skip


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: type(plan).__name__)
def test_a_plan_arrives_as_it_was_sent(plan: Plan) -> None:
    assert decode(encode(plan)) == plan
    assert type(decode(encode(plan))) is type(plan)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"kind": "other"}', b'{"kind": "standby"}', b'{"kind": "gateway", "more": 1}']
)
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        decode(text)


def test_descriptors_arrive_in_order_and_close_on_exec() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        carrier = os.memfd_create("plan")
        os.write(carrier, encode(JOIN))
        sent = [carrier, *(os.memfd_create(name) for name in "ab")]
        socket.send_fds(ours, [b"p"], sent)
        fds = messages.receive(theirs)
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in sent]
        assert not any(os.get_inheritable(fd) for fd in fds)
        assert messages.read_plan(fds) == JOIN
        for fd in (*sent, *fds):
            os.close(fd)
        ours.close()
        assert messages.receive(theirs) == [], "the other side has hung up"


def test_a_failure_names_step_subject_and_reason() -> None:
    told = json.loads(messages.failure("mount it", OSError(errno.EPERM, "mount: not permitted", "/proc")))
    assert told == {
        "step": "mount it",
        "subject": "/proc",
        "errno": errno.EPERM,
        "message": "[Errno 1] mount: not permitted: '/proc'",
    }
    told = json.loads(messages.failure("find it", ValueError("no"), "task"))
    assert (told["subject"], told["errno"]) == ("task", None)
