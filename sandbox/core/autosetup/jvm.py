"""Maven and Gradle. Pure.

Neither can fetch everything that a later build may ask for, and both fail on healthy projects when told to try: what can't be
fetched is told, and isn't the end of setup.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Folder, Tree

_BUILD: Final = ("build.gradle", "build.gradle.kts")
_SETTINGS: Final = ("settings.gradle", "settings.gradle.kts")
# Resolves what every configuration of every project names.
_RESOLVE: Final = (
    "allprojects { task hutchFetch { doLast { configurations.findAll { it.canBeResolved }.each { "
    "try { it.resolve() } catch (Exception error) { println(error.message) } } } } }"
)


def steps(tree: Tree) -> Iterator[Step | str]:
    """One step for each project that no other one above has as a module."""
    modules: set[str] = set()
    for folder in tree.folders:
        if folder.path in modules:
            continue
        mine: list[Folder] = []
        if folder.has("pom.xml"):
            mine = tree.members(folder, folder.texts("pom.xml", "members"))
            yield _maven(folder, tuple(mine))
        elif folder.has(*_BUILD, *_SETTINGS):
            mine = [it for _, it in tree.below(folder) if it.has(*_BUILD) and not it.has(*_SETTINGS)]
            yield _gradle(folder, tuple(mine))
        modules.update(module.path for module in mine)


def _maven(folder: Folder, modules: tuple[Folder, ...]) -> Step:
    own = folder.has("mvnw")
    program = "sh ./mvnw" if own else "mvn"
    tools = ("hutch_java",) if own else ("hutch_java", "hutch_apt mvn maven")
    return Step(
        folder, f"{'mvnw' if own else 'mvn'} dependency:go-offline", "pom.xml",
        (f"{program} -B -ntp dependency:go-offline",), tools, ("pom.xml", "mvnw"), best_effort=True, members=modules,
    )  # fmt: skip


def _gradle(folder: Folder, projects: tuple[Folder, ...]) -> Step:
    own = folder.has("gradlew")
    program = "sh ./gradlew" if own else "gradle"
    tools = ("hutch_java",) if own else ("hutch_java", "hutch_apt gradle gradle")
    commands = (
        f"printf '%s\\n' '{_RESOLVE}' >/tmp/hutch.gradle",
        f"{program} --no-daemon --console=plain --project-cache-dir /tmp/hutch-gradle -I /tmp/hutch.gradle hutchFetch",
    )
    return Step(
        folder, f"{'gradlew' if own else 'gradle'}: dependencies of all projects", folder.first(*_SETTINGS, *_BUILD) or "",
        commands, tools, (*_BUILD, *_SETTINGS, "gradle.lockfile", "gradlew"), (".gradle/", "**/.gradle/"),
        best_effort=True, members=projects,
    )  # fmt: skip
