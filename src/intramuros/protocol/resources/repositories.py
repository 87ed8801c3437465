"""Repositories that sessions mount (contract section 11, contract-2 section 22)."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, model_validator

from intramuros.protocol.resources.base import Request, Response, Timestamp
from intramuros.protocol.resources.mounts import WORKSPACE, check_relative
from intramuros.protocol.resources.skills import describe, slug

MAX_TOKEN_CHARS: Final = 4096
# Of one repository; each costs the model words.
MAX_SKILLS: Final = 100
SKILLS_FOLDER: Final = ".claude/skills"

_HOST: Final = "https://github.com/"
# Owners managed by a company have an underscore; names may hold more.
_REPOSITORY: Final = re.compile(
    r"https://github\.com/[A-Za-z0-9][A-Za-z0-9_-]{0,38}/[A-Za-z0-9._-]{1,100}\Z"
)
_TOKEN: Final = re.compile(r"[!-~]+\Z")
_SHA: Final = re.compile(r"(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})\Z")
_MAX_BRANCH_BYTES: Final = 244
# What git refuses in the name of a ref, and a hyphen in front, which would be an option.
_NO_BRANCH: Final = re.compile(
    r"^-|^/|//|/$|\.\.|@\{|^@$|(?:^|/)\.|\.(?:lock)?(?:/|$)|\.lock/|[\x00-\x20\x7f~^:?*\[\\]"
)


def check_repository(url: str) -> str:
    """Return a repository's address (contract 11.5, contract-2 R391).

    Raises:
        ValueError: it has another form.
    """
    name = url.rpartition("/")[2]
    if not _REPOSITORY.match(url) or name.endswith(".git") or name in (".", ".."):
        raise ValueError("must be https://github.com/OWNER/REPOSITORY, without .git")
    return url


def check_branch(name: str) -> str:
    """Return the name of a branch as git takes it.

    Raises:
        ValueError: git would refuse it, or read it as something else.
    """
    long = len(name.encode("utf-8", "surrogatepass")) > _MAX_BRANCH_BYTES
    if not name or long or _NO_BRANCH.search(name) or not name.isprintable():
        raise ValueError("is no name of a branch")
    return name


def check_sha(sha: str) -> str:
    """Return the full name of a commit.

    Raises:
        ValueError: it is short, or no such name.
    """
    if not _SHA.match(sha):
        raise ValueError("must be a full commit SHA of 40 or 64 hexadecimal digits")
    return sha


def check_token(token: str) -> str:
    """Return a token that can be sent in a header; an error never shows it.

    Raises:
        ValueError: it cannot be.
    """
    if len(token) > MAX_TOKEN_CHARS or not _TOKEN.match(token):
        raise ValueError(f"must be 1 to {MAX_TOKEN_CHARS} printable ASCII characters, no spaces")
    return token


def check_place(path: str) -> str:
    """Return where a repository is mounted: below the working directory (contract 11.6, R393).

    Raises:
        ValueError: it is elsewhere, or no plain path.
    """
    inner = path.removeprefix(f"{WORKSPACE}/")
    if inner == path:
        raise ValueError(f"must lie under {WORKSPACE}/")
    check_relative(inner)
    return path


def default_place(url: str) -> str:
    """Return where a repository is mounted unless the caller says otherwise."""
    return f"{WORKSPACE}/{url.rpartition('/')[2]}"


def is_skill_path(path: str) -> bool:
    """Tell whether a path within a repository is a skill's that is picked up (R203)."""
    folder, _, file = path.rpartition("/")
    above, _, name = folder.rpartition("/")
    plain = name not in ("", ".", "..") and name.isprintable() and "`" not in name
    return above == SKILLS_FOLDER and file == "SKILL.md" and plain


Token = Annotated[str, AfterValidator(check_token)]
Url = Annotated[str, AfterValidator(check_repository)]


class BranchCheckout(Request):
    """Check out the newest commit of a branch."""

    type: Literal["branch"]
    name: Annotated[str, AfterValidator(check_branch)]


class CommitCheckout(Request):
    """Check out one commit."""

    type: Literal["commit"]
    sha: Annotated[str, AfterValidator(check_sha)]


Checkout = Annotated[BranchCheckout | CommitCheckout, Discriminator("type")]


class RepositoryParam(Request):
    """A repository to mount (contract 11.5 to 11.7); without checkout, its default branch."""

    type: Literal["github_repository"]
    url: Url
    authorization_token: Annotated[Token | None, Field(repr=False)] = None
    mount_path: Annotated[str, AfterValidator(check_place)] | None = None
    checkout: Checkout | None = None

    @property
    def place(self) -> str:
        """Where it is mounted."""
        return self.mount_path or default_place(self.url)


class ResourceUpdate(Request):
    """``POST …/resources/{id}``: a repository's new token (contract 11.8)."""

    authorization_token: Annotated[Token, Field(repr=False)]


class RepositoryResource(Response):
    """A mounted repository; its token is never part of an answer."""

    id: str
    type: Literal["github_repository"] = "github_repository"
    url: str
    mount_path: str
    checkout: Checkout | None
    created_at: Timestamp
    updated_at: Timestamp


# What became of a checkout → the type of the error (contract-2 R396). What goes wrong outside of
# the four is about the way there.
ERRORS: Final = {
    "authentication": "repository_authentication_error",
    "forbidden": "repository_forbidden_error",
    "not_found": "repository_not_found_error",
    "checkout": "repository_checkout_error",
    "unreachable": "repository_clone_error",
    "too_large": "repository_clone_error",
    "too_slow": "repository_clone_error",
    "no_git": "repository_clone_error",
    "in_the_way": "repository_clone_error",
    "failed": "repository_clone_error",
}
Trouble = Literal[
    "authentication",
    "forbidden",
    "not_found",
    "checkout",
    "unreachable",
    "too_large",
    "too_slow",
    "no_git",
    "in_the_way",
    "failed",
]


def _skill_path(path: str) -> str:
    if not is_skill_path(path) or len(path.encode("utf-8", "surrogatepass")) > 512:
        raise ValueError(f"must be {SKILLS_FOLDER}/NAME/SKILL.md")
    return path


class RepositorySkill(Request):
    """A skill that lies in a repository, and what its SKILL.md says of it."""

    path: Annotated[str, AfterValidator(_skill_path)]
    name: Annotated[str, AfterValidator(slug)]
    description: Annotated[str, AfterValidator(describe)]


class RepositoryReport(Request):
    """What a worker says became of a checkout.

    Args:
        attempt: the same when the worker says it again.
        commit: what is checked out; None after trouble, and of an empty repository.
    """

    attempt: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    trouble: Trouble | None = None
    commit: Annotated[str, AfterValidator(check_sha)] | None = None
    skills: Annotated[list[RepositorySkill], Field(max_length=MAX_SKILLS)] = []

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.trouble is not None and self.commit is not None:
            raise ValueError("either trouble or a commit")
        if self.commit is None and self.skills:
            raise ValueError("skills: only of what is checked out")
        return self
