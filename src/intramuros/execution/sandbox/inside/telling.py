"""What a shell says of itself, and the script that makes a new one like it.

Everything here is the sandbox's own: bash tells it inside, and bash runs it inside.
"""

from __future__ import annotations

TELL = rb"""{ builtin printf 'jobs\0'; builtin jobs -l; builtin printf '\0'; } >&200 2>/dev/null
(
__im_f=$-
__im_t=$(builtin trap -p)
__im_o=$(builtin set +o)
__im_s=$(builtin shopt -p)
__im_a=$(builtin alias -p)
__im_i=${IFS-} __im_j=${IFS+set}
builtin set +efunvx +o noclobber +o posix
builtin trap - DEBUG ERR RETURN EXIT
builtin unalias -a 2>/dev/null || :
IFS=$' \t\n'
{
  builtin printf 'cwd\0%q\0' "$PWD"
  builtin printf 'umask\0%s\0' "$(builtin umask)"
  builtin printf 'shopt\0%s\0' "$__im_s"
  builtin printf 'set\0%s\0' "$__im_o"
  builtin printf 'dash\0%s\0' "$__im_f"
  builtin printf 'trap\0%s\0' "$__im_t"
  builtin printf 'aliases\0%s\0' "$__im_a"
  builtin printf 'args\0'; builtin printf '%q ' "$@"; builtin printf '\0'
  builtin printf 'stack\0%s\0' "${#DIRSTACK[@]}"
  while IFS= builtin read -r __im_n; do
    case $__im_n in
      BASH|BASHOPTS|BASHPID|BASH_[!E]*|BASH_EX*|COMP_*|DIRSTACK|EPOCH*|EUID) continue ;;
      FUNCNAME|GROUPS|HISTCMD|HOSTTYPE|MACHTYPE|OSTYPE|LINENO) continue ;;
      PIPESTATUS|PPID|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_|__im_*) continue ;;
      IFS) builtin printf 'var\0IFS\0\0'
        if [[ $__im_j ]]; then builtin printf 'IFS=%q' "$__im_i"
        else builtin printf 'unset IFS'; fi ;;
      *) builtin printf 'var\0%s\0%s\0' "$__im_n" "${!__im_n}"
        builtin declare -p -- "$__im_n" ;;
    esac
    builtin printf '\0'
  done < <(builtin compgen -v)
  builtin printf 'functions\0'; builtin declare -f; builtin printf '\0'
  builtin printf 'flags\0'; builtin declare -F; builtin printf '\0'
  builtin printf 'end\0'
} >&200 2>/dev/null
)"""
"""Runs in a subshell, so that it changes nothing; writes words that end in NUL."""


def retell(report: bytes, given: dict[bytes, bytes]) -> tuple[bytes, list[str], bytes]:
    """Return the script for a new shell, what of the old one is not in it, and its jobs.

    Args:
        given: the environment that shells here start with; a new one's may differ, so what still
            has its value is left to it.
    """
    parts, variables = _read(report)
    if parts is None:
        return b"", ["the shell's directory, variables and functions: it did not tell them"], b""
    lines = [b"builtin cd -- " + parts[b"cwd"], b"umask " + parts[b"umask"]]
    lines += [line for line in parts[b"shopt"].splitlines() if not _is_fixed(line)]
    lines += [told for name, value, told in variables if given.get(name) != value]
    lines.append(parts[b"functions"])
    flags = parts[b"flags"].splitlines()
    lines += [line for line in flags if not line.startswith(b"declare -f ")]
    lines.append(parts[b"aliases"])
    lines.append(parts[b"trap"])
    if parts[b"args"].strip(b" '"):
        lines.append(b"set -- " + parts[b"args"])
    lines += [line for line in parts[b"set"].splitlines() if not line.endswith(_NEVER)]
    if b"e" in parts[b"dash"]:
        lines.append(b"set -o errexit")  # a substitution, in which the others are read, drops it
    lost = [] if parts[b"stack"] == b"1" else ["the shell's stack of directories"]
    if not variables:
        lost.append("the shell's variables: it did not tell them")
    return b"\n".join(lines) + b"\n", lost, parts[b"jobs"]


_NEVER = (b"-o noexec",)
_PARTS = (
    b"jobs",
    b"cwd",
    b"umask",
    b"shopt",
    b"set",
    b"dash",
    b"trap",
    b"aliases",
    b"args",
    b"stack",
    b"functions",
    b"flags",
)


def _is_fixed(line: bytes) -> bool:
    """Tell whether an option cannot be set, or sets a variable when it is unset."""
    return line.endswith((b" login_shell", b" restricted_shell")) or b" -u compat" in line


def _read(
    report: bytes,
) -> tuple[dict[bytes, bytes] | None, list[tuple[bytes, bytes, bytes]]]:
    """Return the parts of a report, None unless it is whole, and its variables."""
    words = iter(report.split(b"\0"))
    parts: dict[bytes, bytes] = {}
    variables = []
    for kind in words:
        if kind == b"var":
            variables.append((next(words, b""), next(words, b""), next(words, b"").rstrip(b"\n")))
        elif kind == b"end":
            return (parts, variables) if set(parts) == set(_PARTS) else (None, [])
        elif kind in _PARTS:
            parts[kind] = next(words, b"")
        else:
            break
    return None, []
