"""Bundler: gems go where the image's Ruby has them, nothing is written to the project. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Tree


def steps(tree: Tree) -> Iterator[Step | str]:
    """`bundle install` for each Gemfile; frozen where there is a lock file."""
    for folder in tree.folders:
        if not folder.has("Gemfile"):
            continue
        locked = folder.has("Gemfile.lock")
        frozen = "BUNDLE_FROZEN=true " if locked else ""
        drop = () if locked else ("hutch_drop Gemfile.lock",)
        yield Step(
            folder, "bundle install, frozen" if locked else "bundle install without a lock file",
            "Gemfile.lock" if locked else "Gemfile", (f"{frozen}BUNDLE_SILENCE_ROOT_WARNING=1 bundle install", *drop),
            ("hutch_apt ruby ruby ruby-dev", "hutch_apt bundle bundler"),
            ("Gemfile", "Gemfile.lock"), (".bundle/", "vendor/bundle/"),
        )  # fmt: skip
