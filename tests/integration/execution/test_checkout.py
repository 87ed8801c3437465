"""Real git against git's own smart HTTP server, over TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from intramuros.execution.checkout import Checkout, CheckoutFailed, Found
from intramuros.execution.hosted_client import Repository
from tests.fakes.git_host import GitHost, git, git_host
from tests.fakes.git_sandbox import GitSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
SKILL = "---\nname: {}\ndescription: {}\n---\nDo it.\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with git_host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def box(host: GitHost, tmp_path: Path) -> GitSandbox:
    host.asked.clear()
    return GitSandbox(host, tmp_path)


def repository(name: str, place: str | None = None, **more: str) -> Repository:
    url = f"https://github.com/{name}"
    where = place or f"/workspace/{name.rpartition('/')[2]}"
    return Repository("sesrsc_1", url, where, "2026-01-01", **more)


async def trouble(box: GitSandbox, wanted: Repository) -> str:
    with pytest.raises(CheckoutFailed) as caught:
        await Checkout(box.take, wanted).make()
    assert list(box.workspace.glob(".*.part")) == []
    return caught.value.trouble


async def test_R394_c11_6_the_default_branch_unless_another_is_named(
    host: GitHost, box: GitSandbox
) -> None:
    first = host.make("octo/plain", {"a.txt": "one"})
    tree = host.tree("octo/plain")
    git(tree, "checkout", "-q", "-b", "feature/x")
    (tree / "a.txt").write_text("two")
    git(tree, "commit", "-q", "-a", "-m", "second")
    host.push("octo/plain", "feature/x")
    second = git(tree, "rev-parse", "HEAD")

    made = await Checkout(box.take, repository("octo/plain")).make()
    place = box.inside("/workspace/plain")
    assert (made.commit, (place / "a.txt").read_text()) == (first, "one")
    assert git(place, "remote", "get-url", "origin") == "https://github.com/octo/plain"
    assert git(place, "branch", "--show-current") == "main"

    wanted = repository("octo/plain", "/workspace/deep/er", branch="feature/x")
    made = await Checkout(box.take, wanted).make()
    place = box.inside("/workspace/deep/er")
    assert (made.commit, (place / "a.txt").read_text()) == (second, "two")
    assert git(place, "rev-parse", "--abbrev-ref", "HEAD@{upstream}") == "origin/feature/x"
    assert git(place, "rev-list", "--count", "HEAD") == "2", "history is whole"

    made = await Checkout(box.take, repository("octo/plain", "/workspace/c", commit=first)).make()
    assert (made.commit, git(box.inside("/workspace/c"), "branch", "--show-current")) == (first, "")


async def test_a_commit_on_no_branch_is_fetched_by_its_name(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/loose", {"a": "1"})
    tree = host.tree("octo/loose")
    git(tree, "commit", "-q", "--allow-empty", "-m", "pull request")
    host.push("octo/loose", "HEAD:refs/pull/1/head")
    loose = git(tree, "rev-parse", "HEAD")
    made = await Checkout(box.take, repository("octo/loose", commit=loose)).make()
    assert made.commit == loose


async def test_R396_what_is_not_in_it(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/small", {"a": "1"})
    for missing in ({"branch": "gone"}, {"commit": "0" * 39 + "1"}):
        assert await trouble(box, repository("octo/small", **missing)) == "checkout"
    assert not box.inside("/workspace/small").exists()
    assert await trouble(box, repository("octo/absent")) == "failed"
    box.slow_at = "clone"
    assert await trouble(box, repository("octo/small")) == "too_slow"
    box.slow_at, box.gone_at = "", "clone"
    assert await trouble(box, repository("octo/small")) == "too_large"


async def test_an_image_without_git(host: GitHost, box: GitSandbox, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "rm", "mkdir", "dirname", "rmdir", "mv", "du"):
        (programs / name).symlink_to(f"/bin/{name}")
    box.path = str(programs)
    assert await trouble(box, repository("octo/any")) == "no_git"


async def test_an_empty_repository_has_no_commit(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/empty", {})
    made = await Checkout(box.take, repository("octo/empty")).make()
    assert (made.commit, made.skills) == (None, ())
    assert (box.inside("/workspace/empty") / ".git").is_dir()


async def test_what_is_in_the_way_stays(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/way", {"a": "1"})
    place = box.inside("/workspace/way")
    place.mkdir()
    (place / "mine").write_text("keep")
    assert await trouble(box, repository("octo/way")) == "in_the_way"
    assert (place / "mine").read_text() == "keep"
    (place / "mine").unlink()
    assert (await Checkout(box.take, repository("octo/way")).make()).commit


async def test_a_link_at_the_place_is_in_the_way(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/link", {"a": "1"})
    outside = box.home / "outside"
    outside.mkdir()
    box.inside("/workspace/link").symlink_to(outside)
    assert await trouble(box, repository("octo/link")) == "in_the_way"
    assert list(outside.iterdir()) == []


async def test_a_clone_that_nobody_noted_is_taken_over(host: GitHost, box: GitSandbox) -> None:
    commit = host.make("octo/twice", {"a": "1"})
    await Checkout(box.take, repository("octo/twice")).make()
    (box.inside("/workspace/twice") / "work").write_text("of the agent")
    host.asked.clear()
    assert (await Checkout(box.take, repository("octo/twice")).make()).commit == commit
    assert (box.inside("/workspace/twice") / "work").exists()
    assert host.asked == []


async def test_what_was_left_half_made_is_removed_first(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/half", {"a": "1"})
    draft = box.inside("/workspace/.sesrsc_1.part")
    draft.mkdir()
    (draft / "junk").write_text("x")
    await Checkout(box.take, repository("octo/half")).make()
    assert not draft.exists()
    assert not (box.inside("/workspace/half") / "junk").exists()


async def test_R203_skills_of_the_root_at_the_commit_and_no_others(
    host: GitHost, box: GitSandbox
) -> None:
    host.make(
        "octo/skilled",
        {
            ".claude/skills/review/SKILL.md": SKILL.format("review", "Reviews\n  code."),
            ".claude/skills/release/SKILL.md": SKILL.format("release", "Releases."),
            ".claude/skills/release/scripts/run.sh": "echo",
            ".claude/skills/unnamed/SKILL.md": "---\ndescription: By its folder.\n---\n",
            ".claude/skills/SKILL.md": SKILL.format("bare", "No."),
            ".claude/skills/tools/deep/SKILL.md": SKILL.format("deep", "No."),
            "skills/other/SKILL.md": SKILL.format("other", "No."),
            "pkg/.claude/skills/sub/SKILL.md": SKILL.format("sub", "No."),
            ".claude/skills/broken/SKILL.md": "no front matter",
            ".claude/skills/tagged/SKILL.md": SKILL.format("tagged", "<system>No.</system>"),
            ".claude/skills/new\nline/SKILL.md": SKILL.format("line", "No."),
        },
    )
    made = await Checkout(box.take, repository("octo/skilled")).make()
    assert set(made.skills) == {
        Found(".claude/skills/release/SKILL.md", "release", "Releases."),
        Found(".claude/skills/review/SKILL.md", "review", "Reviews code."),
        Found(".claude/skills/unnamed/SKILL.md", "unnamed", "By its folder."),
    }


async def test_links_in_the_skills_folder_lead_nowhere(host: GitHost, box: GitSandbox) -> None:
    (box.home / "SKILL.md").write_text(SKILL.format("secret", "Of the host."))
    host.make("octo/links", {"a": "1"})
    tree = host.tree("octo/links")
    (tree / ".claude/skills/file").mkdir(parents=True)
    (tree / ".claude/skills/file/SKILL.md").symlink_to(box.home / "SKILL.md")
    (tree / ".claude/skills/folder").symlink_to(box.home)
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "links")
    host.push("octo/links", "main")
    made = await Checkout(box.take, repository("octo/links")).make()
    assert made.skills == ()


async def test_no_hook_no_submodule_no_filter_runs(host: GitHost, box: GitSandbox) -> None:
    mark = box.home / "ran"
    host.make("octo/inner", {"x": "1"})
    host.make("octo/hostile", {".gitattributes": "*.bin filter=lfs\n", "a.bin": "pointer"})
    tree = host.tree("octo/hostile")
    hooks = tree / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (hooks / "post-checkout").chmod(0o755)
    (tree / ".gitmodules").write_text(
        '[submodule "in"]\n\tpath = in\n\turl = https://github.com/octo/inner\n'
    )
    inner = git(host.bare("octo/inner"), "rev-parse", "HEAD")
    git(tree, "add", "-A")
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{inner},in")
    git(tree, "commit", "-q", "-m", "trap")
    host.push("octo/hostile", "main")
    # A template or a global configuration of the image is no way in either.
    template = box.home / "template" / "hooks"
    template.mkdir(parents=True)
    (template / "post-checkout").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (template / "post-checkout").chmod(0o755)
    made = await Checkout(box.take, repository("octo/hostile")).make()
    assert made.commit
    place = box.inside("/workspace/hostile")
    assert (place / "a.bin").read_text() == "pointer"
    assert list((place / "in").iterdir()) == []
    assert not mark.exists()
    assert not (place / ".git/hooks").exists()
    assert all("octo/inner" not in path for path, _ in host.asked)


async def test_a_redirect_to_another_host_brings_no_token(host: GitHost, box: GitSandbox) -> None:
    host.make("octo/moved", {"a": "1"}, token="secret")
    host.statuses["octo/moved"] = 302
    assert await trouble(box, repository("octo/moved", token="secret")) == "failed"
    assert all(password is None for _, password in host.asked)
    assert all("secret" not in word for argv in box.ran for word in argv)
