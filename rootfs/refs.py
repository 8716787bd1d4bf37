"""What a ref means, decided without a repository: branch, tag, commit; and the packed-refs text for a sandbox.

Pure: must not read a file nor import pygit2, since the daemon uses it as well.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

BRANCHES = "refs/remotes/origin/"
HEADS = "refs/heads/"  # what the remote calls them
TAGS = "refs/tags/"
_HEX = re.compile(r"[0-9a-fA-F]{4,40}\Z")
_SHA1 = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a ref was understood as. One of `target` (an object id by name) and `prefix` (of a commit's id) is set.

    `name`: in full, as the remote has it (refs/heads/main); None for a commit.
    """

    target: str | None = None
    branch: str | None = None
    prefix: str | None = None
    notice: str | None = None
    name: str | None = None


def choose(ref: str, refs: Mapping[str, str]) -> Choice | None:
    """What `ref` names among `refs` (branches as refs/remotes/origin/…): a branch before a tag before an abbreviation."""
    for name in _full_names(ref):
        if name in refs:
            branch = name.removeprefix(BRANCHES) if name.startswith(BRANCHES) else None
            both = branch == ref and TAGS + ref in refs
            notice = (
                f"'{ref}' is a branch and a tag: the branch is taken, refs/tags/{ref} names the tag" if both else None
            )
            full = HEADS + branch if branch is not None else name
            return Choice(target=refs[name], branch=branch, notice=notice, name=full)
    return Choice(prefix=ref.lower()) if _HEX.match(ref) else None


def _full_names(ref: str) -> list[str]:
    if ref.startswith("refs/heads/"):
        return [BRANCHES + ref.removeprefix("refs/heads/")]
    if ref.startswith("refs/"):
        return [ref]
    return [BRANCHES + ref, TAGS + ref, "refs/" + ref, BRANCHES + ref.removeprefix("origin/")]


def similar(ref: str, refs: Mapping[str, str]) -> list[str]:
    """Up to five branches and tags that somebody who wrote `ref` may have meant, closest first."""
    names = sorted({name.removeprefix(BRANCHES).removeprefix(TAGS) for name in refs})
    wanted = ref.removeprefix("refs/heads/").removeprefix(TAGS).removeprefix("origin/")
    close = difflib.get_close_matches(wanted, names, n=5, cutoff=0.5)
    containing = [name for name in names if wanted.lower() in name.lower() and name not in close]
    return (close + containing)[:5]


def guess_default(head_target: str | None, head_id: str | None, refs: Mapping[str, str]) -> str | None:
    """The default branch's name. A remote whose HEAD is detached or dangles gets the likeliest branch.

    `head_target` is what the remote's HEAD points to (refs/heads/…), `head_id` its object id, if it sent them.
    A detached HEAD that is no branch's tip has none: then its commit is the default and no branch is.
    """
    branches = {name.removeprefix(BRANCHES): sha for name, sha in refs.items() if name.startswith(BRANCHES)}
    if head_target and head_target.removeprefix("refs/heads/") in branches:
        return head_target.removeprefix("refs/heads/")
    fitting = [name for name, sha in branches.items() if head_id is None or sha == head_id]
    for name in ("main", "master"):
        if name in fitting:
            return name
    return min(fitting, default=None)


def packed_refs(refs: Mapping[str, str]) -> str:
    """The text of a packed-refs file with these refs, sorted as git wants it.

    What isn't a full ref name with a full id is refused (ValueError): the file is read by git inside a sandbox, where a
    forged line could name another ref.
    """
    lines = []
    for name in sorted(refs, key=lambda name: name.encode("utf-8", "surrogateescape")):
        if not _SHA1.match(refs[name]) or not name.startswith("refs/") or any(c <= " " or c == "\x7f" for c in name):
            raise ValueError(f"cannot put {name!r} = {refs[name]!r} into packed-refs")
        lines.append(f"{refs[name]} {name}\n")
    return "# pack-refs with: sorted \n" + "".join(lines)
