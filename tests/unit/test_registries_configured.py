"""Configuration of package managers → the indexes that they ask, as tables of real files and hostile ones.

Must not touch the network or name a registry.
"""

from __future__ import annotations

import pytest

from proxy.registries import apt, npm, pip
from proxy.registries.configured import configured
from proxy.registries.index import Index, prefixes
from tests.support.texts import Texts

PATH = {"PATH": "/opt/python/bin:/usr/local/bin:/usr/bin:/bin"}
NOTHING = Texts({})
PIP_SOURCE = (
    'PyPI = PackageIndex("https://index.test/", file_storage_domain="files.test")\nTestPyPI = PackageIndex("x", "y")\n'
)
PIP_AT = "opt/python/lib/python3.13/site-packages/pip/_internal/models/index.py"
NPM_SOURCE = "  registry: new Definition('registry', {\n    default: 'https://npm.test/',\n    type: url,\n"
NPM_AT = "usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js"
PROGRAMS = {PIP_AT: PIP_SOURCE, NPM_AT: NPM_SOURCE}


def urls(files: dict[str, str], env: dict[str, str] | None = None) -> list[str]:
    """The indexes' URLs, with pip's and npm's programs in the image."""
    return [each.url for each in configured(Texts(PROGRAMS | files), PATH | (env or {}), NOTHING, [])]


def pips(files: dict[str, str], **env: str) -> list[str]:
    return [url for url in urls(files, env) if url != "https://npm.test/"]


def npms(files: dict[str, str], **env: str) -> list[str]:
    return [url for url in urls(files, env) if url != "https://index.test/simple/"]


DEFAULT = "https://index.test/simple/"
MIRROR = "https://mirror.test/simple/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [DEFAULT]),
        ("[global]\nindex-url = https://mirror.test/simple\n", [MIRROR]),
        ("[global]\nindex_url: https://mirror.test/simple/\n", [MIRROR]),
        ("[global]\n--index-url=https://mirror.test/simple\n", [MIRROR]),
        ("[global]\r\nindex-url=https://mirror.test/simple\r\n", [MIRROR]),
        ("[GLOBAL]\nindex-url = https://mirror.test/simple", [DEFAULT, MIRROR]),  # a command that isn't there
        ("[install]\nindex-url = https://mirror.test/simple", [DEFAULT, MIRROR]),
        ("[global]\n# index-url = https://no.test/\n; index-url = https://no.test/", [DEFAULT]),
        ("[global]\nextra-index-url = https://mirror.test/simple", [DEFAULT, MIRROR]),
        (
            "[global]\nextra-index-url =\n    https://mirror.test/simple\n    # not this\n    https://b.test/x/ https://c.test",
            [DEFAULT, MIRROR, "https://b.test/x/", "https://c.test/"],
        ),
        (
            "[global]\nfind-links = https://wheels.test/list.html /opt/wheels",
            [DEFAULT, "https://wheels.test/list.html"],
        ),
        ("[global]\nno-index = true\nfind-links =\n  https://wheels.test/", ["https://wheels.test/"]),
        ("[global]\nindex-url = file:///opt/simple", []),
        ("[global]\nindex-url = https://10.0.0.5/simple", []),
        ("[global]\nindex-url = https://mirror.test:8443/simple", ["https://mirror.test:8443/simple/"]),
        ("[global]\nindex-url = https://me:secret@mirror.test/simple", [MIRROR]),
        ("[global]\ntrusted-host = other.test\nindex-url = https://mirror.test/simple", [MIRROR]),
        ("index-url = https://mirror.test/simple", [DEFAULT, MIRROR]),
    ],
)
def test_pip_conf(text: str, expected: list[str]) -> None:
    assert pips({"etc/pip.conf": text}) == expected


def one(url: str) -> str:
    return f"[global]\nindex-url = {url}\n"


def test_pip_files_override_in_pips_order() -> None:
    places = [
        "etc/xdg/pip/pip.conf",
        "etc/pip.conf",
        "root/.pip/pip.conf",
        "root/.config/pip/pip.conf",
        "usr/pip.conf",
        "usr/local/pip.conf",
        "opt/python/pip.conf",
        "own/pip.ini",
    ]
    files = {}
    for number, place in enumerate(places):
        files[place] = one(f"https://m{number}.test/")
        assert pips(files, PIP_CONFIG_FILE="/own/pip.ini") == [f"https://m{number}.test/"]
    assert pips(files, PIP_CONFIG_FILE="/dev/null") == [DEFAULT]
    assert pips({"home/me/.config/pip/pip.conf": one(MIRROR)}, HOME="/home/me") == [MIRROR]
    assert pips({"conf/pip/pip.conf": one(MIRROR)}, XDG_CONFIG_HOME="/conf") == [MIRROR]
    assert pips({"b/pip/pip.conf": one(MIRROR)}, XDG_CONFIG_DIRS="/a:/b") == [MIRROR]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PIP_INDEX_URL": "https://mirror.test/simple"}, [MIRROR, "https://extra.test/"]),
        ({"PIP_INDEX_URL": ""}, ["https://conf.test/", "https://extra.test/"]),
        ({"PIP_EXTRA_INDEX_URL": "https://a.test https://b.test"}, ["https://conf.test/", "https://a.test/", "https://b.test/"]),
        ({"PIP_NO_INDEX": "1"}, []),
        ({"PIP_FIND_LINKS": "https://w.test/l"}, ["https://conf.test/", "https://extra.test/", "https://w.test/l"]),
        ({"UV_DEFAULT_INDEX": "https://uv.test/simple"}, ["https://conf.test/", "https://extra.test/", "https://uv.test/simple/"]),
        ({"UV_INDEX_URL": "https://uv.test/"}, ["https://conf.test/", "https://extra.test/", "https://uv.test/"]),
        (
            {"UV_INDEX": "torch=https://t.test/whl https://u.test/"},
            ["https://conf.test/", "https://extra.test/", "https://t.test/whl/", "https://u.test/"],
        ),
        (
            {"UV_FIND_LINKS": "https://l.test/a,/opt/wheels"},
            ["https://conf.test/", "https://extra.test/", "https://l.test/a"],
        ),
    ],
)  # fmt: skip
def test_variables_of_pip_and_uv(env: dict[str, str], expected: list[str]) -> None:
    text = "[global]\nindex-url = https://conf.test\nextra-index-url = https://extra.test\n"
    assert pips({"etc/pip.conf": text}, **env) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["https://npm.test/"]),
        ("registry=https://mirror.test/npm\n", ["https://mirror.test/npm/"]),
        (" registry = \"https://mirror.test/npm/\" \r\n", ["https://mirror.test/npm/"]),
        ("registry=https://mirror.test/npm/ ; ours", ["https://mirror.test/npm/"]),
        ("; registry=https://no.test/\n#registry=https://no.test/", ["https://npm.test/"]),
        ("@acme:registry=https://acme.test/npm/", ["https://npm.test/", "https://acme.test/npm/"]),
        ("//mirror.test/:_authToken=${TOKEN}\nregistry=https://mirror.test", ["https://mirror.test/"]),
        ("registry=${MIRROR_URL}/npm/", ["https://variable.test/npm/"]),
        ("registry=https://${MIRROR_HOST?}/npm/", ["https://host.test/npm/"]),
        ("registry=${UNSET}", []),
        ("registry=https://mirror.test/${UNSET?}npm/", ["https://mirror.test/npm/"]),
        ("[section]\nregistry=https://no.test", ["https://npm.test/"]),
        ("registry=http://192.168.1.2:4873", []),
        ("registry=https://u:p@mirror.test:4873/", ["https://mirror.test:4873/"]),
    ],
)  # fmt: skip
def test_npmrc(text: str, expected: list[str]) -> None:
    variables = {"MIRROR_URL": "https://variable.test", "MIRROR_HOST": "host.test", "TOKEN": "secret"}
    assert npms({"root/.npmrc": text}, **variables) == expected


def test_npm_files_and_variables_override_in_npms_order() -> None:
    files: dict[str, str] = {}
    for number, place in enumerate((
        "usr/lib/node_modules/npm/npmrc", "etc/npmrc", "usr/etc/npmrc", "usr/local/etc/npmrc", "global/npmrc",
        "root/.config/pnpm/rc", "root/.npmrc",
    )):  # fmt: skip
        files[place] = f"registry=https://m{number}.test/"
        assert npms(files, NPM_CONFIG_GLOBALCONFIG="/global/npmrc") == [f"https://m{number}.test/"]
    assert npms({"my/rc": "registry=https://mine.test"}, npm_config_userconfig="/my/rc") == ["https://mine.test/"]
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY", "Npm_Config_Registry"):
        assert npms(files, **{name: "https://variable.test"}) == ["https://variable.test/"]
    assert npms({}, npm_config_registry="") == ["https://npm.test/"]
    for name in ("YARN_REGISTRY", "YARN_NPM_REGISTRY_SERVER", "COREPACK_NPM_REGISTRY"):
        assert npms({}, **{name: "https://yarn.test"}) == ["https://npm.test/", "https://yarn.test/"]


def test_yarn() -> None:
    source = {"opt/yarn-v1.22.22/lib/cli.js": "const YARN_REGISTRY = exports.YARN_REGISTRY = 'https://yarn.test';"}
    assert npms(source) == ["https://npm.test/", "https://yarn.test/"]
    assert npms({**source, "root/.npmrc": "registry=https://mirror.test"}) == ["https://mirror.test/"]
    quoted = 'registry "https://mirror.test/yarn"\n"@a:registry" "https://a.test"\n'
    assert npms({**source, "root/.yarnrc": quoted}) == [
        "https://npm.test/", "https://mirror.test/yarn/", "https://a.test/",
    ]  # fmt: skip
    later = 'npmRegistryServer: "https://b.test"\nnpmScopes:\n  acme:\n    npmRegistryServer: https://c.test\n'
    assert npms({"root/.yarnrc.yml": later}) == ["https://npm.test/", "https://b.test/", "https://c.test/"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://apt.test/debian trixie main", ["http://apt.test/debian/dists/trixie/InRelease"]),
        ("deb-src http://apt.test/debian/ trixie main", ["http://apt.test/debian/dists/trixie/InRelease"]),
        ("  deb\t[arch=amd64 signed-by=/k.gpg]  https://apt.test:8443 a b # x", ["https://apt.test:8443/dists/a/InRelease"]),
        ("deb [ arch=amd64 ] https://apt.test/ a b", ["https://apt.test/dists/a/InRelease"]),
        ("deb https://apt.test/flat ./", ["https://apt.test/flat/./InRelease"]),
        ("deb https://apt.test/flat stable/", ["https://apt.test/flat/stable/InRelease"]),
        ("deb https://u:p@apt.test/ a b", ["https://apt.test/dists/a/InRelease"]),
        ("deb mirror+http://apt.test/list.txt a b", ["http://apt.test/list.txt"]),
        ("deb mirror://apt.test/list.txt a b", ["http://apt.test/list.txt"]),
        ("deb mirror+https://apt.test/list.txt a b", ["https://apt.test/list.txt"]),
        (
            "deb mirror+file:/etc/apt/mirrors.txt a b",
            ["http://m1.test/debian/dists/a/InRelease", "https://m2.test/dists/a/InRelease"],
        ),
        ("# deb http://no.test/ a b", []),
        ("deb cdrom:[Debian 13 _Trixie_ - amd64]/ trixie main", []),
        ("deb file:/srv/debian trixie main", []),
        ("deb copy:/srv/debian trixie main", []),
        ("deb tor+http://apt.test/ trixie main", []),
        ("deb http://192.0.2.7/debian trixie main", []),
        ("deb [arch=amd64 http://no.test/ a b", []),
        ("deb http://apt.test/", []),
        ("rpm http://no.test/ a b", []),
    ],
)  # fmt: skip
def test_apt_list(line: str, expected: list[str]) -> None:
    mirrors = "# ours\nhttp://m1.test/debian\tpriority:1\nhttps://m2.test/\nfile:/srv/debian\n\n"
    for place in ("etc/apt/sources.list", "etc/apt/sources.list.d/ours.list"):
        files = Texts(
            {
                place: f"{line}\n",
                "etc/apt/mirrors.txt": mirrors,
                "etc/apt/sources.list.d/x.list.save": "deb http://no.test a b",
            }
        )
        assert [index.url for index in apt.indexes(files)] == expected


SOURCES = """# comment
Types: deb deb-src
URIs: http://apt.test/debian
  https://b.test/debian
# comment within
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: http://no.test/
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://no.test/
Suites: a

types: deb
uris: https://c.test/
suites: ./
"""


def test_apt_deb822() -> None:
    found = apt.indexes(Texts({"etc/apt/sources.list.d/debian.sources": SOURCES}))
    assert [index.url for index in found] == [
        "http://apt.test/debian/dists/trixie/InRelease", "https://b.test/debian/dists/trixie/InRelease",
        "https://c.test/./InRelease",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "source"),
    [
        (PIP_AT, PIP_SOURCE),
        ("usr/lib/python3/dist-packages/pip/_internal/models/index.py", PIP_SOURCE),
        ("usr/local/lib/python3.9/site-packages/pip/_internal/models/index.py", PIP_SOURCE.replace('"', "'")),
        ("usr/lib/python3.13/site-packages/pip/_internal/models/index.py",
         'PyPI = PackageIndex(\n    "https://index.test/",\n    file_storage_domain="files.test",\n)\n'),
    ],
)  # fmt: skip
def test_pips_own_index_is_read_from_its_source(at: str, source: str) -> None:
    assert pip.default(Texts({at: source}), prefixes(PATH)) == Index("pip", DEFAULT, ("files.test",))


@pytest.mark.parametrize(
    ("at", "source"),
    [
        (NPM_AT, NPM_SOURCE),
        (
            "usr/share/nodejs/npm/lib/utils/config/definitions.js",
            "define('registry', {\n  default: 'https://npm.test/',\n",
        ),
        (
            "usr/local/lib/node_modules/npm/lib/config/defaults.js",
            "    'rebuild-bundle': true,\n    registry: 'https://npm.test/',\n",
        ),
    ],
)
def test_npms_own_registry_is_read_from_its_source(at: str, source: str) -> None:
    assert npm.default(Texts({at: source}), prefixes(PATH)) == Index("npm", "https://npm.test/")


def test_the_hosts_programs_are_asked_for_their_defaults_only_where_the_image_has_none() -> None:
    host = Texts({path: text.replace(".test", ".host") for path, text in PROGRAMS.items()})
    bare = configured(NOTHING, PATH, host, ["opt/python", "usr"])
    assert [index.url for index in bare] == ["https://index.host/simple/", "https://npm.host/"]
    assert urls({}) == [index.url for index in configured(Texts(PROGRAMS), PATH, host, ["opt/python", "usr"])]
