"""The system prompt: the agent's own, and what the session has mounted. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.protocol.resources.skills import Manifest

_MEMORY: Final = """\
# Memory

These directories in your sandbox are memory stores: what is in them outlives this session, and
other sessions may read and change it. Look there before you start, and use the file tools to keep
there what will be worth knowing later. Each file is text of at most 100 kB.
"""
_SKILLS: Final = """\
# Skills

These directories in your working directory hold instructions and files for certain kinds of work.
Before a task that one of them is meant for, read its SKILL.md and follow it.
"""
_FILES: Final = """\
# Files

These files were put into your sandbox for you to read. They cannot be changed where they are; what
you make for the user goes into `/mnt/session/outputs`.
"""
_REPOSITORIES: Final = """\
# Repositories

These git repositories are cloned into your sandbox. Their remote `origin` takes fetch, and push
where the session's access allows it; credentials are added on the way: you need and find none.
"""
_REPOSITORY_SKILLS: Final = """\
# Skills of repositories

These skills lie in the repositories. Before a task that one of them is meant for, read its SKILL.md
and follow it; the paths in it are relative to its own directory.
"""
_ACCESS: Final = {
    "read_write": "you may read and write",
    "read_only": "you may only read; writes are refused",
}


def brief(
    own: str | None, resources: Sequence[Mapping[str, Any]], skills: Sequence[Manifest] = ()
) -> str | None:
    """Return a session's system prompt, or None when there is nothing to say.

    Args:
        own: the agent's.
        resources: what is mounted, as the API shows it (contract 11.13).
        skills: what the session's skills say of themselves.
    """
    sections = [own] if own else []
    files = [shown for shown in resources if shown["type"] == "file"]
    if files:
        sections.append("\n".join([_FILES, *(_point_to(file) for file in files)]))
    if skills:
        sections.append("\n".join([_SKILLS, *(_offer(skill) for skill in skills)]))
    repositories = [shown for shown in resources if shown["type"] == "github_repository"]
    if repositories:
        sections.append("\n".join([_REPOSITORIES, *map(_locate, repositories)]))
    found = [line for shown in repositories for line in _skills_in(shown)]
    if found:
        sections.append("\n".join([_REPOSITORY_SKILLS, *found]))
    stores = [shown for shown in resources if shown["type"] == "memory_store"]
    if stores:
        sections.append("\n".join([_MEMORY, *(_describe(store) for store in stores)]))
    return "\n\n".join(sections) or None


def _point_to(file: Mapping[str, Any]) -> str:
    name = file.get("_filename")
    known = not name or file["mount_path"].endswith(f"/{name}")
    return f"- `{file['mount_path']}`" + ("" if known else f": {name}")


def _offer(skill: Manifest) -> str:
    return f"- `skills/{skill.name}/SKILL.md`: {' '.join(skill.description.split())}"


def _locate(repository: Mapping[str, Any]) -> str:
    checkout = repository["checkout"] or {}
    line = f"- `{repository['mount_path']}`: {repository['url']}"
    if "name" in checkout:
        line += f", branch `{checkout['name']}`"
    if "sha" in checkout:
        line += f", at {checkout['sha']}"
    if repository.get("_state") == "failed":
        line += " (could not be cloned: it is not there)"
    return line


def _skills_in(repository: Mapping[str, Any]) -> list[str]:
    place = repository["mount_path"]
    return [
        f"- {skill['name']}, `{place}/{skill['path']}`: {' '.join(skill['description'].split())}"
        for skill in repository.get("_skills") or ()
    ]


def _describe(store: Mapping[str, Any]) -> str:
    lines = [f"- `{store['mount_path']}`: {store['name']} ({_ACCESS[store['access']]})"]
    if store["description"]:
        lines.append(f"  About it: {store['description']}")
    if store["instructions"]:
        lines.append(f"  How to use it: {store['instructions']}")
    return "\n".join(lines)
