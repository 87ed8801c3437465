import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside.telling import TELL, retell

GIVEN = {b"PATH": b"/usr/bin:/bin", b"HOME": b"/tmp", b"TOKEN": b"placeholder-1"}


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Programs that a shell starts in the background ignore these, and so would our shells."""
    both = (signal.SIGINT, signal.SIGQUIT)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in both}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def tell(before: str, folder: Path) -> bytes:
    """Return what a bash says of itself after some commands."""
    script = f"{before}\n{{ {TELL.decode()}\n}} </dev/null >/dev/null 2>&1\nexit 0\n"
    report = folder / "report"
    with report.open("wb") as out:
        subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-c", f"exec 200>&{out.fileno()}; . /dev/stdin"],
            input=script.encode(),
            env={k.decode(): v.decode() for k, v in GIVEN.items()},
            pass_fds=[out.fileno()],
            cwd=folder,
            check=True,
        )
    return report.read_bytes()


def in_another(script: bytes, ask: str, folder: Path) -> str:
    place = folder / "script"
    place.write_bytes(script)
    done = subprocess.run(
        ["/bin/bash", "--noprofile", "--norc", "-c", f". {place}\n{ask}"],
        env={**{k.decode(): v.decode() for k, v in GIVEN.items()}, "TOKEN": "placeholder-2"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("before", "ask", "answer"),
    [
        ("mkdir -p 'a b'; cd 'a b'", 'echo "${PWD##*/}"', "a b"),
        ("export A='b  c' B=$'x\\ny'", "bash -c 'echo \"$A|$B\"'", "b  c|x\ny"),
        (
            "plain='$HOME `id` \"q\"'",
            'echo "$plain"; bash -c "echo [\\$plain]"',
            '$HOME `id` "q"\n[]',
        ),
        ("declare -A M=([a b]=1 [c]='d]')", 'echo "${M[a b]} ${M[c]}"', "1 d]"),
        ("arr=(1 '2 3' '')", 'echo "${#arr[@]} ${arr[1]}"', "3 2 3"),
        ("declare -i n=5", "n=n+1; echo $n", "6"),
        ("declare -r fixed=1", "(fixed=2) 2>/dev/null || echo kept $fixed", "kept 1"),
        ("ref=x; x=9; declare -n name=x", "echo $name", "9"),
        ("f() { echo f-$1; }; export -f f", "f 1; bash -c 'f 2'", "f-1\nf-2"),
        ("f() { cat <<'E'\na $b\nE\n}", "f", "a $b"),
        ("shopt -s extglob globstar; g() { [[ ab == +(a|b) ]] && echo yes; }", "g", "yes"),
        ("alias greet='echo hi'; shopt -s expand_aliases", "alias", "alias greet='echo hi'"),
        ("umask 027", "umask", "0027"),
        ("set -eu -o pipefail", "echo $-; set +o | grep pipefail", "huB"),
        ("set -f -C", "echo *; : > /dev/null", "*"),
        ("set -o posix", "set +o | grep posix", "set -o posix"),
        ("trap 'echo bye' USR1", "trap", "trap -- 'echo bye' SIGUSR1"),
        ("trap 'echo dbg >> log' DEBUG ERR", "trap | wc -l", "2"),
        ("set -- one 'two three'", "echo $# $2", "2 two three"),
        ("IFS=,", 'x=a,b; set -- $x; echo "$#"', "2"),
        ("unset IFS", 'x="a b,c"; set -- $x; echo "$# ${IFS-unset}"', "2 unset"),
        ("cd /usr; cd /", "echo $OLDPWD", "/usr"),
        ("export BASH_ENV=/nowhere", "echo $BASH_ENV", "/nowhere"),
        ("unset HOME", "echo ok", "ok"),
        ("set -x", "set +x; echo ok", "ok"),
    ],
)
def test_a_new_shell_is_like_the_old(tmp_path: Path, before: str, ask: str, answer: str) -> None:
    script, lost, _ = retell(tell(before, tmp_path), GIVEN)
    assert lost == []
    if before == "set -x":
        script = script.replace(b"set -o xtrace", b"")
    said = in_another(script, ask, tmp_path)
    if "-eu" in before:
        assert {"e", "u"} <= set(said.split("\n")[0])
        assert "set -o pipefail" in said
    else:
        assert said.rstrip("\n") == answer


def test_what_a_shell_was_given_is_left_to_the_next(tmp_path: Path) -> None:
    """A placeholder of the next sandbox is another one."""
    script, _, _ = retell(tell("other=$TOKEN", tmp_path), GIVEN)
    said = in_another(script, "echo $TOKEN $other", tmp_path)
    assert said == "placeholder-2 placeholder-1\n"
    script, _, _ = retell(tell("TOKEN=mine", tmp_path), GIVEN)
    assert in_another(script, "echo $TOKEN", tmp_path) == "mine\n"


def test_telling_changes_nothing_and_jobs_are_told(tmp_path: Path) -> None:
    before = "set -e; x=1; sleep 30 & trap 'kill %1' EXIT"
    script, _, jobs = retell(tell(before, tmp_path), GIVEN)
    assert b"sleep 30 &" in jobs
    assert b"__im_" not in script


def test_a_stack_of_directories_is_named(tmp_path: Path) -> None:
    _, lost, _ = retell(tell("pushd / >/dev/null", tmp_path), GIVEN)
    assert lost == ["the shell's stack of directories"]


@pytest.mark.parametrize(
    "report", [b"", b"cwd\0/\0end\0", b"nonsense", b"var\0x", b"cwd\0/\0umask\0"]
)
def test_half_a_report_is_none(report: bytes) -> None:
    script, lost, jobs = retell(report, {})
    assert (script, jobs) == (b"", b"")
    assert len(lost) == 1


@pytest.mark.parametrize(
    "before",
    [
        "builtin() { :; }",
        "printf() { echo owned; }; declare() { echo no; }",
        "enable -n compgen",
        "readonly IFS",
    ],
)
def test_a_shell_that_was_bent_is_kept_or_named(tmp_path: Path, before: str) -> None:
    script, lost, _ = retell(tell(f"{before}; KEPT=1", tmp_path), GIVEN)
    assert lost or b"KEPT" in script
