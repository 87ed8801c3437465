"""Clone a repository inside a sandbox, with the sandbox's own git, and read the skills in it.

Whatever a repository holds, only processes of the sandbox touch it: nothing here opens a path of a
workspace from outside. A clone is made beside its place and moved there when it is whole. Hooks,
submodules, LFS and every transport but https are off while it is made.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.execution.hosted_client import Repository
from intramuros.execution.sandbox.base import (
    WORKSPACE,
    ExecResult,
    Sandbox,
    SandboxError,
    SandboxGone,
)
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.protocol.resources.repositories import (
    MAX_SKILLS,
    SKILLS_FOLDER,
    Trouble,
    is_skill_path,
)
from intramuros.protocol.resources.skills import MAX_FRONT_MATTER_BYTES, read_manifest

log = logger("repositories")

# Of the transfer, of filling the working tree, and of everything small; in seconds.
CLONE_S: Final = 900.0
CHECKOUT_S: Final = 300.0
_SHORT_S: Final = 60.0
_TELL_EVERY_S: Final = 15.0
_SAID_CHARS: Final = 300
_REGULAR: Final = frozenset({"100644", "100755"})
_ENTRY: Final = re.compile(r"(\d{6}) blob ([0-9a-f]{40,64})\t(.*)", re.DOTALL)
# Exit statuses of scripts below, and of a program that is not there.
_IN_THE_WAY: Final = 73
_MISSING: Final = 127
# Where a clone says whose it is.
_MARK: Final = "intramuros.resource"

_ENVIRONMENT: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C.UTF-8",
}
_CONFIG: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "submodule.recurse": "false",
    "credential.helper": "",
    "core.askPass": "",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
    "gc.auto": "0",
    # A transfer that all but stands still is given up.
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}
_PREPARE: Final = """
rm -rf -- "$1" || exit 1
if [ -L "$2" ] || { [ -e "$2" ] && ! rmdir -- "$2" 2>/dev/null; }; then exit 73; fi
mkdir -p -- "$(dirname -- "$2")"
"""
_PLACE: Final = 'if [ -e "$2" ] || [ -L "$2" ]; then exit 73; fi; mv -- "$1" "$2"'


class CheckoutFailed(Exception):
    """A repository is not there; ``trouble`` says why."""

    def __init__(self, trouble: Trouble, said: str = "") -> None:
        super().__init__(f"{trouble}: {said[-_SAID_CHARS:]}" if said else trouble)
        self.trouble: Trouble = trouble


@dataclass(frozen=True)
class Found:
    """A skill in a repository."""

    path: str
    name: str
    description: str


@dataclass(frozen=True)
class CheckedOut:
    """What is in the working tree: the commit, None in an empty repository, and its skills."""

    commit: str | None
    skills: tuple[Found, ...] = ()


class Checkout:
    """One repository of one sandbox.

    Args:
        take: gives the session's sandbox.
    """

    def __init__(self, take: Callable[[], Awaitable[Sandbox]], repository: Repository) -> None:
        self._take = take
        self._repository = repository
        self._draft = f"{WORKSPACE}/.{repository.resource_id}.part"

    async def make(self) -> CheckedOut:
        """Clone, check out, and put in place; what is left of an earlier try is removed.

        Raises:
            CheckoutFailed: it is not there, and nothing of it is left.
        """
        place = self._repository.place
        if await self._is_ours(place):
            return CheckedOut(await self._commit(place))
        await self._must("failed", self._sh(_PREPARE, self._draft, place))
        try:
            async with self._telling():
                await self._clone()
            await self._select()
            commit = await self._commit(self._draft)
            skills = () if commit is None else await self._skills()
            await self._must("failed", self._here("config", _MARK, self._repository.resource_id))
            await self._must("failed", self._sh(_PLACE, self._draft, place))
        except CheckoutFailed:
            await self.discard()
            raise
        return CheckedOut(commit, skills)

    async def discard(self) -> None:
        """Remove what is left of a clone that was not finished; never raises."""
        try:
            await self._run(["rm", "-rf", "--", self._draft], timeout_s=CHECKOUT_S)
        except CheckoutFailed as error:
            # The next attempt removes it before it begins.
            log.warning("draft_not_removed", error=str(error))

    async def _is_ours(self, place: str) -> bool:
        """Tell whether a worker put it there and died before it could note so."""
        marked = await self._run(self._git("-C", place, "config", "--local", _MARK))
        return marked.stdout.decode("utf-8", "replace").strip() == self._repository.resource_id

    async def _clone(self) -> None:
        url = self._repository.url
        how = ("--no-checkout", "--no-recurse-submodules", "--template=", "--origin", "origin")
        made = await self._run(self._git("clone", *how, "--", url, self._draft), CLONE_S)
        if made.exit_code == _MISSING:
            raise CheckoutFailed("no_git")
        _check(made, "failed")

    async def _select(self) -> None:
        """Fill the working tree with what was asked for."""
        branch, commit = self._repository.branch, self._repository.commit
        if branch is not None:
            ref = f"refs/remotes/origin/{branch}"
            await self._must(
                "checkout", self._here("rev-parse", "-q", "--verify", f"{ref}^{{commit}}")
            )
            what = ["-B", branch, "--track", ref]
        elif commit is not None:
            known = await self._run(self._here("cat-file", "-e", f"{commit}^{{commit}}"))
            if known.exit_code:
                fetch = self._here("fetch", "-q", "origin", commit)
                await self._must("checkout", fetch, timeout_s=CLONE_S)
            await self._must("checkout", self._here("cat-file", "-e", f"{commit}^{{commit}}"))
            what = ["--detach", commit]
        elif await self._commit(self._draft) is None:
            return  # nothing was ever committed
        else:
            what = []
        checkout = self._here("checkout", "-q", "-f", *what)
        await self._must("failed", checkout, timeout_s=CHECKOUT_S)

    async def _commit(self, place: str) -> str | None:
        said = await self._run(
            self._git("-C", place, "rev-parse", "-q", "--verify", "HEAD^{commit}")
        )
        return said.stdout.decode("ascii", "replace").strip() if said.exit_code == 0 else None

    async def _skills(self) -> tuple[Found, ...]:
        """Return the skills of the commit: regular files of it alone, so no link leads anywhere."""
        listed = await self._run(
            self._here("ls-tree", "-r", "-z", "HEAD", "--", f"{SKILLS_FOLDER}/")
        )
        found: list[Found] = []
        for entry in listed.stdout.decode("utf-8", "replace").split("\0"):
            match = _ENTRY.fullmatch(entry)
            if match is None or match[1] not in _REGULAR or not is_skill_path(match[3]):
                continue
            if len(found) == MAX_SKILLS:
                log.warning("skills_left_out", repository=self._repository.url, limit=MAX_SKILLS)
                break
            text = await self._run(self._here("cat-file", "blob", match[2]))
            folder = match[3].split("/")[-2]
            try:
                manifest = read_manifest(text.stdout[:MAX_FRONT_MATTER_BYTES], folder)
            except ValueError as error:
                log.warning("skill_left_out", path=match[3], error=str(error))
                continue
            found.append(Found(match[3], manifest.name, manifest.description))
        return tuple(found)

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Tell now and then how far a clone is, for the operator."""

        async def tell() -> None:
            elapsed_s = 0.0
            while True:
                await anyio.sleep(_TELL_EVERY_S)
                elapsed_s += _TELL_EVERY_S
                try:
                    said = await self._run(["du", "-sk", "--", self._draft])
                except CheckoutFailed:
                    continue
                kib = said.stdout.partition(b"\t")[0].decode("ascii", "replace")
                log.info(
                    "repository_cloning",
                    repository=self._repository.url,
                    elapsed_s=round(elapsed_s),
                    kib=kib,
                )

        failure: CheckoutFailed | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(tell)
            try:
                yield
            except CheckoutFailed as error:
                failure = error  # raised below: a task group would wrap it
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _git(self, *arguments: str) -> list[str]:
        settings = [word for item in _CONFIG.items() for word in ("-c", "=".join(item))]
        return ["git", *settings, *arguments]

    def _here(self, *arguments: str) -> list[str]:
        return self._git("-C", self._draft, *arguments)

    def _sh(self, script: str, *arguments: str) -> list[str]:
        return ["sh", "-c", script, "sh", *arguments]

    async def _must(self, trouble: Trouble, argv: list[str], timeout_s: float = _SHORT_S) -> None:
        _check(await self._run(argv, timeout_s), trouble)

    async def _run(self, argv: list[str], timeout_s: float = _SHORT_S) -> ExecResult:
        try:
            sandbox = await self._take()
            done = await sandbox.exec(argv, cwd=WORKSPACE, env=_ENVIRONMENT, timeout_s=timeout_s)
        except SandboxGone as error:
            # Nothing else ends it in the middle of a program that it was asked to run.
            raise CheckoutFailed("too_large", str(error)) from error
        except (SandboxError, OperatorError, TimeoutError) as error:
            raise CheckoutFailed("failed", str(error)) from error
        if done.timed_out:
            raise CheckoutFailed("too_slow")
        return done


def _check(done: ExecResult, trouble: Trouble) -> None:
    if done.exit_code == _IN_THE_WAY:
        raise CheckoutFailed("in_the_way")
    if done.exit_code:
        raise CheckoutFailed(trouble, done.stderr.decode("utf-8", "replace"))
