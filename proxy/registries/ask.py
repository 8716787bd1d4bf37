"""Asks indexes where their downloads are: one small package each, all at once, within a time limit.

Runs in a process without privilege (__main__.py). Decides nothing: it returns hosts that a policy then may name.
"""

import asyncio
import ssl
from collections.abc import Sequence
from urllib.parse import urljoin

from proxy.dial import DialError, Refused
from proxy.registries.answers import downloads, hosts
from proxy.registries.get import GetError, Response, Web
from proxy.registries.index import Index, clean

SECONDS = 10.0
MAX_BODY = 1 << 20
MAX_HOPS = 3
# The package managers' own packages: every mirror has them.
_PACKAGES = {"pip": "pip/", "npm": "npm"}
_ACCEPT = {
    "pip": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1",
    "npm": "application/vnd.npm.install-v1+json, application/json;q=0.8",
}
_REDIRECTS = (301, 302, 303, 307, 308)


async def ask_all(web: Web, indexes: Sequence[Index], seconds: float = SECONDS) -> list[dict[str, object]]:
    """For each index {"hosts": […]}, and "error": one clause, if it didn't say where its downloads are."""
    tasks = [asyncio.create_task(_ask(web, index)) for index in indexes]
    await asyncio.wait(tasks, timeout=seconds)
    return [_outcome(task, seconds) for task in tasks]


def _outcome(task: asyncio.Task[list[str]], seconds: float) -> dict[str, object]:
    if not task.done():
        task.cancel()
        return {"hosts": [], "error": f"it did not answer within {seconds:g} s"}
    try:
        return {"hosts": task.result()}
    except ssl.SSLCertVerificationError as error:
        return {"hosts": [], "error": f"its certificate is not trusted: {error.verify_message}"}
    except (GetError, DialError, Refused, OSError, ValueError) as error:
        return {"hosts": [], "error": str(error)}


async def _ask(web: Web, index: Index) -> list[str]:
    method = "HEAD" if index.kind == "apt" else "GET"
    url = index.url + _PACKAGES.get(index.kind, "")
    passed, answer = await _follow(web, method, url, _ACCEPT.get(index.kind, "*/*"))
    if index.kind == "apt":  # what isn't there (a suite that has ended) has told where it would be all the same
        return hosts(passed)
    if answer.status != 200:
        raise GetError(f"it answered with status {answer.status}")
    files = downloads(index.kind, answer.body.decode("utf-8", "replace"), passed[-1])
    return hosts([*passed, *files, *(await _behind(web, files[-1:]) if index.kind != "mirrors" else [])])


async def _follow(web: Web, method: str, url: str, accept: str) -> tuple[list[str], Response]:
    """Ask, and go where redirects lead; returns every URL on the way, and the last answer."""
    passed = [url]
    while True:
        answer = await web.request(method, passed[-1], accept, MAX_BODY)
        if answer.status not in _REDIRECTS:
            return passed, answer
        following = clean(urljoin(passed[-1], answer.location))
        if not following or len(passed) > MAX_HOPS:
            raise GetError("its redirects lead nowhere")
        passed.append(following)


async def _behind(web: Web, files: Sequence[str]) -> list[str]:
    """Where a file really is: many a private mirror redirects to a store of objects."""
    for file in files:
        try:
            return (await _follow(web, "HEAD", file, "*/*"))[0]
        except (GetError, DialError, Refused, OSError, ValueError):
            continue  # the page of links has said something already
    return []
