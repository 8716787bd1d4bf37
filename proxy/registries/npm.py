"""What npm, and those that read the same configuration (yarn, pnpm), fetch from.

Pure. It reads configuration as npm does, as far as it says where packages are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from proxy.registries.index import MAX_URL, Files, Index, directory, home, prefixes

_NPM = ("lib/node_modules/npm", "share/nodejs/npm")
_NPM_SOURCES = (
    "node_modules/@npmcli/config/lib/definitions/definitions.js",
    "lib/utils/config/definitions.js",  # npm 7 to 9
    "lib/config/defaults.js",  # npm 6
)
_NPM_DEFAULT = re.compile(
    r"""(?:['"]registry['"],\s*\{\s*default:|^[ \t]*registry:)\s*['"](https?://[^'"\s]+)['"]""", re.MULTILINE
)
_YARN_SOURCES = (
    "lib/node_modules/yarn/lib/cli.js",
    "share/nodejs/yarn/lib/constants.js",
    "share/nodejs/yarn/lib/cli.js",
    "share/yarn/lib/cli.js",
)
_YARN_DEFAULT = re.compile(r"""\bYARN_REGISTRY\s*=\s*(?:exports\.YARN_REGISTRY\s*=\s*)?['"](https?://[^'"\s]+)['"]""")
_YARN_ENV = ("YARN_REGISTRY", "YARN_NPM_REGISTRY_SERVER", "COREPACK_NPM_REGISTRY")
_VARIABLE = re.compile(r"\$\{([^${}?]+)(\?)?\}")


def indexes(files: Files, env: Mapping[str, str], npm: Index | None, yarn: Index | None) -> Iterator[Index]:
    """Every registry, those of single scopes too; `npm` and `yarn` are their defaults where nothing else is configured."""
    shared = _settings(files, env)
    yarns = _yarn_settings(files, env)
    for default, settings in ((npm, shared), (yarn, shared | yarns)):
        if default is not None and "registry" not in settings:
            yield default
    for key, value in [*shared.items(), *yarns.items(), *(("registry", env.get(name, "")) for name in _YARN_ENV)]:
        if _names_registry(key) and (cleaned := directory(value)):
            yield Index("npm", cleaned)


def default(files: Files, where: Sequence[str]) -> Index | None:
    """The registry of npm itself, read from its source in the first of these prefixes that has it."""
    return _first(
        files, [f"{prefix}/{npm}/{source}" for prefix in where for npm in _NPM for source in _NPM_SOURCES], _NPM_DEFAULT
    )


def yarn_default(files: Files, where: Sequence[str]) -> Index | None:
    """The registry of yarn 1, likewise. Later ones come from the npm registry, when a project asks for them."""
    own = [f"opt/{name}/lib/cli.js" for name in files.names("opt") if name.startswith("yarn-v1.")]
    return _first(
        files, [*(f"{prefix}/{source}" for prefix in where for source in _YARN_SOURCES), *own[:4]], _YARN_DEFAULT
    )


def _first(files: Files, paths: Sequence[str], pattern: re.Pattern[str]) -> Index | None:
    for path in paths:
        if (found := files.find(path, pattern)) and (cleaned := directory(found[0])):
            return Index("npm", cleaned)
    return None


def _names_registry(key: str) -> bool:
    return key == "registry" or (key.startswith("@") and key.endswith(":registry"))


def _settings(files: Files, env: Mapping[str, str]) -> dict[str, str]:
    """npm's own configuration: the files, the one that overrides all others last, then the variables."""
    set_ = {_npm_key(name): value for name, value in env.items() if name.lower().startswith("npm_config_") and value}
    where = list(reversed(prefixes(env)))
    paths = [
        *(f"{prefix}/{npm}/npmrc" for prefix in where for npm in _NPM),
        "etc/npmrc",
        *(f"{prefix}/etc/npmrc" for prefix in where),
        set_.get("globalconfig", ""),
        f"{env.get('XDG_CONFIG_HOME') or home(env) + '/.config'}/pnpm/rc",
        set_.get("userconfig") or f"{home(env)}/.npmrc",
    ]
    found: dict[str, str] = {}
    for path in paths:
        found.update(parse(files.text(path.lstrip("/")), env))
    return found | set_


def _npm_key(variable: str) -> str:
    key = variable[len("npm_config_") :]
    return (key[:1] + key[1:].replace("_", "-")).lower()


def parse(text: str, env: Mapping[str, str]) -> dict[str, str]:
    """The settings of an npmrc that stand in no section, ${VARIABLE}s put in."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("[") and line.rstrip().endswith("]"):
            break  # what follows belongs to sections, which npm has no use for
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith(("#", ";")) and len(line) <= MAX_URL:
            found[_expanded(_unquoted(key), env)] = _expanded(_unquoted(value), env)
    return found


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return re.split("[;#]", text, maxsplit=1)[0].strip()


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """With the values of variables. One that isn't set, or is no part of an URL by its length, stays, or goes if it may (?)."""

    def value(match: re.Match[str]) -> str:
        found = env.get(match[1])
        return found if found is not None and len(found) <= MAX_URL else "" if match[2] else match[0]

    return _VARIABLE.sub(value, text)


def _yarn_settings(files: Files, env: Mapping[str, str]) -> dict[str, str]:
    """Of yarn 1 (.yarnrc: key, space, value, in quotes or not) and of later ones (.yarnrc.yml)."""
    found: dict[str, str] = {}
    for path in ("etc/yarnrc", "usr/etc/yarnrc", "usr/local/etc/yarnrc", f"{home(env)}/.yarnrc"):
        for line in files.text(path).splitlines():
            key, _, value = line.strip().partition(" ")
            found[_unquoted(key)] = _expanded(_unquoted(value), env)
    for number, line in enumerate(files.text(f"{home(env)}/.yarnrc.yml").splitlines()):
        key, _, value = line.strip().partition(":")
        if key == "npmRegistryServer":  # once for all, and once in each scope
            found[f"@{number}:registry"] = _expanded(_unquoted(value), env)
    return found
