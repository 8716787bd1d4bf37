"""Policies for tests: written shortly, and Hypothesis strategies for them, for rules and for requests, of few hosts so
that they meet. Must not decide anything."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from proxy.policy import Policy, parse

HOSTS = ["example.com", "a.example.com", "b.a.example.com", "evil-example.com", "example.com.evil.org", "org", "x.org"]
ADDRESSES = ["10.1.2.3", "10.0.0.0/8", "192.0.2.7"]
PORTS = [22, 80, 443, 8443]
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"]
_SEGMENTS = ["a", "A", "b", "..", ".", "%2e%2e", "..;", "a%2fb", "%61", "", "git-upload-pack", "c;d", "\\", "%00"]

PATHS = st.lists(st.sampled_from(_SEGMENTS), max_size=4).map(lambda segments: "/" + "/".join(segments))
PLAIN_PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/b/", "/A/%61"])
FIELDS = st.lists(
    st.sampled_from(
        [("Upgrade", "websocket"), ("X-HTTP-Method-Override", "PUT"), ("content-length", "3"), ("Content-Length", "0"),
         ("content-type", "application/x-git-upload-pack-request"), ("accept", "*/*")]
    ),
    max_size=2,
)  # fmt: skip

READ = ["GET", "HEAD", "OPTIONS"]
CREDENTIAL = {"name": "TOKEN", "placeholder": "a1b2c3d4e5f6g7", "value": "z9y8x7w6v5u4t3", "for": ["api.example.com"]}


def policy(*texts: str, access: str, **more: Any) -> Policy:
    return parse({"phase": "agent", "access": access, "rules": list(texts), **more})


def limited(*texts: str, **more: Any) -> Policy:
    return policy(*texts, access="limited", **more)


def unrestricted(*texts: str, **more: Any) -> Policy:
    return policy(*texts, access="unrestricted", **more)


OFF = policy("example.com", "tcp://example.com:22", access="off")


@st.composite
def rules(draw: st.DrawFn, deny: bool | None = None) -> str:
    """The text of a rule that parses."""
    denies = draw(st.booleans()) if deny is None else deny
    host = draw(st.sampled_from(HOSTS))
    port = draw(st.sampled_from(PORTS))
    methods = draw(st.sampled_from(["", "", f" methods={draw(st.sampled_from(METHODS))}"]))
    plain = f"{draw(st.sampled_from(['', '=', '*.']))}{host}{draw(st.sampled_from(['', f':{port}']))}{methods}"
    scheme = draw(st.sampled_from(["http", "https"]))
    star = draw(st.sampled_from(["", "*."]))
    url = f"{scheme}://{star}{host}{draw(st.sampled_from(['', f':{port}']))}{draw(PLAIN_PATHS)}{methods}"
    tcp = f"tcp://{star}{host}:{port}"
    kinds = [plain, url, tcp, draw(st.sampled_from(ADDRESSES))]
    if not denies:
        kinds += [f"{host} git=read", f"{host} mode=splice", f"=example.com{methods} mode=inspect"]
    return ("deny " if denies else "") + draw(st.sampled_from(kinds))


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy as the daemon tells it."""
    methods = draw(st.none() | st.lists(st.sampled_from(METHODS), min_size=1, max_size=3))
    texts = draw(st.lists(rules(), max_size=5))
    return {
        "phase": "agent",
        "access": draw(st.sampled_from(["off", "limited", "limited", "unrestricted"])),
        "preset": draw(st.sampled_from(["none", "common-dependencies", "package-managers"])),
        "registries": draw(st.sampled_from([[], ["a.example.com"], ["mirror.x.org:8443"]])),
        "rules": [text for text in texts if methods is None or "splice" not in text],
        "methods": methods,
        "ceiling": draw(st.sampled_from([[], [], ["a.example.com"], ["=x.org:443"]])),
    }


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request and the connection that it comes on, as decide_request takes them."""
    return {
        "host": draw(st.sampled_from([*HOSTS, "10.1.2.3", "crates.io", "www.github.com"])),
        "port": draw(st.sampled_from(PORTS)),
        "tls": draw(st.booleans()),
        "method": draw(st.sampled_from([*METHODS, "get", "CONNECT"])),
        "target": draw(PATHS) + draw(st.sampled_from(["", "?q", "?service=git-receive-pack", "?_method=PUT"])),
        "fields": draw(FIELDS),
    }
