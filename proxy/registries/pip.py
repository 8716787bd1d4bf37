"""What pip, and uv by its variables, fetch from.

Pure. It reads configuration as pip does, as far as it says where packages are; no parser of a library, because hostile
files stop those for minutes (configparser, seen with one long line of spaces).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.registries.index import Files, Index, clean, directory, home, host_of, prefixes

type _Settings = dict[tuple[str, str], list[str]]  # (section, option) → the words of its value

_SOURCE = "pip/_internal/models/index.py"
_DEFAULT = re.compile(
    r"""\bPyPI\s*=\s*PackageIndex\(\s*["'](https?://[^"'\s]+)["'],\s*file_storage_domain=["']([^"'\s]+)["']"""
)
_PYTHONS = 8  # of one prefix
_TRUE = ("1", "true", "yes", "y", "t", "on")
_UV_INDEXES = ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_NAMED = re.compile(r"\A[A-Za-z0-9._-]+=(?=https?://)")


def indexes(files: Files, env: Mapping[str, str], default: Index | None) -> Iterator[Index]:
    """Every index and page of links that pip would ask, `default` where nothing is configured instead; and uv's."""
    settings = _settings(files, env)
    if not _is_true(_effective(settings, env, "no-index")):
        if default is not None and not _effective(settings, env, "index-url"):
            yield default
        yield from _indexes(_values(settings, env, "index-url") + _values(settings, env, "extra-index-url"))
    yield from _pages(_values(settings, env, "find-links"))
    yield from _indexes(_NAMED.sub("", url) for name in _UV_INDEXES for url in env.get(name, "").split())
    yield from _pages(env.get("UV_FIND_LINKS", "").replace(",", " ").split())


def _indexes(urls: Iterable[str]) -> Iterator[Index]:
    return (Index("pip", cleaned) for url in urls if (cleaned := directory(url)))


def _pages(urls: Iterable[str]) -> Iterator[Index]:
    return (Index("links", cleaned) for url in urls if (cleaned := clean(url)))


def default(files: Files, where: Sequence[str]) -> Index | None:
    """The index of pip itself, read from its source in the first of these prefixes that has it."""
    for prefix in where:
        for python in [name for name in files.names(f"{prefix}/lib") if name.startswith("python3")][:_PYTHONS]:
            for packages in ("site-packages", "dist-packages"):
                if found := files.find(f"{prefix}/lib/{python}/{packages}/{_SOURCE}", _DEFAULT):
                    return _default(*found)
    return None


def _default(url: str, file_host: str) -> Index | None:
    root, files_at = directory(url), host_of(f"https://{file_host}/")
    return Index("pip", f"{root}simple/", (files_at,) if files_at else ()) if root else None


def _settings(files: Files, env: Mapping[str, str]) -> _Settings:
    own = env.get("PIP_CONFIG_FILE", "")
    if own == "/dev/null":  # pip's way of saying: no file at all
        return {}
    found: _Settings = {}
    for path in [*_paths(env), own]:
        found.update(parse(files.text(path.lstrip("/"))))
    return found


def _paths(env: Mapping[str, str]) -> list[str]:
    """Where pip looks, the one that overrides all others last. Each Python has a file of its own, in its prefix."""
    system = [f"{path}/pip/pip.conf" for path in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")[:8]]
    user = env.get("XDG_CONFIG_HOME") or f"{home(env)}/.config"
    sites = [f"{prefix}/pip.conf" for prefix in reversed(prefixes(env))]
    return [*system, "etc/pip.conf", f"{home(env)}/.pip/pip.conf", f"{user}/pip/pip.conf", *sites]


def parse(text: str) -> _Settings:
    """The options of a pip.conf, names as pip normalises them. A line that is indented further continues the option above."""
    found: _Settings = {}
    section, option, indent = "", "", 0
    for line in text.splitlines():
        content = line.strip()
        if not content or content[0] in "#;":
            continue
        if option and line.find(content[0]) > indent:
            found[section, option] += content.split()
            continue
        indent = line.find(content[0])
        if content[0] == "[" and "]" in content[2:]:
            section, option = content[1:].rpartition("]")[0], ""
        else:
            end = min((at for at in (content.find("="), content.find(":")) if at >= 0), default=len(content))
            option = content[:end].strip().lower().replace("_", "-").removeprefix("--")
            found[section, option] = content[end + 1 :].split()
    return found


def _effective(settings: _Settings, env: Mapping[str, str], option: str) -> list[str]:
    """What holds for all of pip's commands."""
    return env.get(_variable(option), "").split() or settings.get(("global", option), [])


def _values(settings: _Settings, env: Mapping[str, str], option: str) -> list[str]:
    """What holds for any of its commands: a section may be for one command only, the variable is for all of them."""
    set_ = env.get(_variable(option), "").split()
    return set_ or [word for (_, name), words in settings.items() if name == option for word in words]


def _variable(option: str) -> str:
    return "PIP_" + option.upper().replace("-", "_")


def _is_true(words: Sequence[str]) -> bool:
    return bool(words) and words[0].lower() in _TRUE
