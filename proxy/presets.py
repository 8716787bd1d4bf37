"""The presets: lists of hosts that come with Hutch, read once when the filter starts.

The registries of pip, npm and apt are in none of the files: they are found from the package managers' own
configuration, and join every preset but `none` as the policy's registries.
"""

from pathlib import Path

from proxy.rules import Rule, parse_rule


def _read(name: str) -> tuple[Rule, ...]:
    """One rule on each line, comments behind #."""
    lines = Path(__file__).with_name("presets").joinpath(f"{name}.txt").read_text("utf-8").splitlines()
    return tuple(parse_rule(text) for line in lines if (text := line.partition("#")[0].strip()))


PRESETS: dict[str, tuple[Rule, ...]] = {"none": ()} | {
    name: _read(name) for name in ("common-dependencies", "package-managers")
}
