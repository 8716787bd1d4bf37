"""What apt fetches from: sources.list and its directory, in both formats.

Pure. Sources on this machine (file:, cdrom:, copy:) and behind Tor lead nowhere that a policy could name, and are passed over.
"""

from collections.abc import Iterator

from proxy.registries.index import Files, Index, clean

_DIRECTORY = "etc/apt/sources.list.d"
_MOST = 64  # files in it, and sources in one file
_NO = ("no", "false", "0", "off", "without", "disable")

type _Source = tuple[str, str]  # URI, suite


def indexes(files: Files) -> Iterator[Index]:
    """One index for each URI of an enabled source."""
    names = [name for name in files.names(_DIRECTORY) if name.endswith((".list", ".sources"))][:_MOST]
    texts = [
        ("etc/apt/sources.list", parse_list),
        *((f"{_DIRECTORY}/{name}", parse_list if name.endswith(".list") else parse_deb822) for name in names),
    ]
    for path, parse in texts:
        for uri, suite in parse(files.text(path))[:_MOST]:
            yield from _of(files, uri, suite)


def parse_list(text: str) -> list[_Source]:
    """`deb [options] URI suite component…`, one a line."""
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] not in ("deb", "deb-src"):
            continue
        if len(words) > 1 and words[1].startswith("["):
            end = next((at for at, word in enumerate(words) if word.endswith("]")), len(words))
            words = words[end:]
        if len(words) > 2:
            found.append((words[1], words[2]))
    return found


def parse_deb822(text: str) -> list[_Source]:
    """Paragraphs of `Field: value`; a value goes on in the indented lines that follow."""
    found: list[_Source] = []
    fields: dict[str, list[str]] = {}
    field = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            found += _sources(fields)
            fields, field = {}, ""
        elif line[0] in " \t" and field:
            fields[field] += line.split()
        elif line[0] != "#":
            name, _, value = line.partition(":")
            field = name.strip().lower()
            fields[field] = value.split()
    return found


def _sources(fields: dict[str, list[str]]) -> list[_Source]:
    enabled = fields.get("enabled", ["yes"])[:1]
    if enabled and enabled[0].lower() in _NO:
        return []
    return [(uri, suite) for uri in fields.get("uris", []) for suite in fields.get("suites", [])[:1]]


def _of(files: Files, uri: str, suite: str) -> Iterator[Index]:
    method, _, rest = uri.partition(":")
    if method == "mirror+file":  # a list of mirrors in the image
        for mirror in parse_mirrors(files.text(rest.lstrip("/")))[:_MOST]:
            yield from _web(mirror, suite)
    elif method in ("mirror", "mirror+http", "mirror+https"):
        if cleaned := clean(f"{'https' if method.endswith('s') else 'http'}:{rest}"):
            yield Index("mirrors", cleaned)
    else:
        yield from _web(uri, suite)


def _web(uri: str, suite: str) -> Iterator[Index]:
    """The index of a suite, or of a repository without suites (whose suite is written as a path, with / at its end)."""
    place = suite.strip("/") if suite.endswith("/") else f"dists/{suite}"
    if cleaned := clean(f"{uri.rstrip('/')}/{place}/InRelease"):
        yield Index("apt", cleaned)


def parse_mirrors(text: str) -> list[str]:
    """The URIs of a list of mirrors: the first word of each line."""
    return [words[0] for line in text.splitlines() if (words := line.split()) and words[0][0] != "#"]
