"""The filter is run here by a small interpreter of its instructions; the kernel's own verdicts are
in the isolation battery."""

from errno import EAFNOSUPPORT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT

import pytest

from intramuros.kernel import seccomp, syscalls
from tests.fakes.filters import run as interpret

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = ["x86_64", "aarch64"]

# Everything the kernel has that no sandbox may do: name, number on x86_64, number on aarch64.
REFUSED = """
_sysctl 156 -; acct 163 89; add_key 248 217; adjtimex 159 171; afs_syscall 183 -; bpf 321 280;
chroot 161 51; clock_adjtime 305 266; clock_settime 227 112; create_module 174 -;
delete_module 176 106; epoll_ctl_old 214 -; epoll_wait_old 215 -; fanotify_init 300 262;
fanotify_mark 301 263; file_setattr 469 469; finit_module 313 273; fsconfig 431 431;
fsmount 432 432; fsopen 430 430; fspick 433 433; get_kernel_syms 177 -; get_mempolicy 239 236;
getpmsg 181 -; init_module 175 105; io_uring_enter 426 426; io_uring_register 427 427;
io_uring_setup 425 425; ioperm 173 -; iopl 172 -; kcmp 312 272; kexec_file_load 320 294;
kexec_load 246 104; keyctl 250 219; lookup_dcookie 212 18; mbind 237 235; memfd_secret 447 447;
migrate_pages 256 238; modify_ldt 154 -; mount 165 40; mount_setattr 442 442; move_mount 429 429;
move_pages 279 239; name_to_handle_at 303 264; nfsservctl 180 42; open_by_handle_at 304 265;
open_tree 428 428; open_tree_attr 467 467; perf_event_open 298 241; pidfd_getfd 438 438;
pivot_root 155 41; process_madvise 440 440; process_vm_readv 310 270; process_vm_writev 311 271;
ptrace 101 117; putpmsg 182 -; query_module 178 -; quotactl 179 60; quotactl_fd 443 443;
reboot 169 142; remap_file_pages 216 234; request_key 249 218; security 185 -;
set_mempolicy 238 237; set_mempolicy_home_node 450 450; setdomainname 171 162;
sethostname 170 161; setns 308 268; settimeofday 164 170; swapoff 168 225; swapon 167 224;
sysfs 139 -; syslog 103 116; tuxcall 184 -; umount2 166 39; uselib 134 -; userfaultfd 323 282;
ustat 136 -; vhangup 153 58; vserver 236 -;
"""
ARGUED = {
    "x86_64": {"clone": 56, "ioctl": 16, "mknod": 133, "mknodat": 259, "personality": 135,
               "prctl": 157, "socket": 41, "socketpair": 53, "unshare": 272},
    "aarch64": {"clone": 220, "ioctl": 29, "mknodat": 33, "personality": 92,
                "prctl": 167, "socket": 198, "socketpair": 199, "unshare": 97},
}  # fmt: skip
CLONE3 = 435


def run(machine: str, call: str | int, *args: int, audit: int | None = None) -> int:
    number = ARGUED[machine][call] if isinstance(call, str) else call
    return interpret(seccomp.assemble(machine), audit or AUDIT[machine], number, *args)


def refused(machine: str) -> dict[str, int]:
    rows = [row.split() for row in REFUSED.split(";")[:-1]]
    column = 1 + MACHINES.index(machine)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_not_listed_is_refused(machine: str) -> None:
    listed = set(syscalls.allowed(machine).values())
    argued = set(ARGUED[machine].values())
    unused, code = syscalls.UNUSED[machine], seccomp.assemble(machine)
    for number in range(700):
        if number in argued:
            continue
        found = interpret(code, AUDIT[machine], number)
        if number in listed:
            assert found == 0, number
        elif number in unused or number in syscalls.ABSENT or number > syscalls.NEWEST:
            assert found == ENOSYS, number
        else:
            assert found == EPERM, number


@pytest.mark.parametrize("machine", MACHINES)
def test_the_ways_out_are_not_on_the_list(machine: str) -> None:
    code = seccomp.assemble(machine)
    met = {name: interpret(code, AUDIT[machine], n) for name, n in refused(machine).items()}
    assert {name: error for name, error in met.items() if error not in (EPERM, ENOSYS)} == {}
    assert len(met) > 60


@pytest.mark.parametrize("machine", MACHINES)
def test_new_namespaces_are_refused_and_threads_are_not(machine: str) -> None:
    for bit in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(machine, "clone", bit | 17) == EPERM
        assert run(machine, "unshare", bit) == EPERM
    assert run(machine, "unshare", 0x80) == EPERM
    assert run(machine, "unshare", 0x80000000) == EPERM
    assert run(machine, "unshare", 0x400 | 0x200) == 0
    assert run(machine, "clone", 0x3D0F00) == 0
    assert run(machine, "clone", 17) == 0
    assert run(machine, CLONE3) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_only_ordinary_sockets_pass(machine: str) -> None:
    assert [f for f in range(64) if run(machine, "socket", f, 1) == 0] == [1, 2, 10, 16]
    assert run(machine, "socket", 40, 1) == EAFNOSUPPORT
    flags = 0o2000000 | 0o4000
    for family in (2, 10):
        assert [k for k in range(16) if run(machine, "socket", family, k | flags) == 0] == [1, 2]
        passed = [p for p in range(300) if run(machine, "socket", family, 1, p) == 0]
        assert passed == [0, 1, 6, 17, 58]
        assert run(machine, "socket", family, 1, 262) == EPROTONOSUPPORT
        assert run(machine, "socket", family, 3, 1) == EPERM
    assert [p for p in range(32) if run(machine, "socket", 16, 3, p) == 0] == [0]
    assert run(machine, "socketpair", 1, 1) == 0
    assert run(machine, "socketpair", 30, 1) == EAFNOSUPPORT


@pytest.mark.parametrize("machine", MACHINES)
def test_tricks_with_terminals_are_refused(machine: str) -> None:
    for trick in (0x5412, 0x541C, 0x541D, 0x5423, 0x5437):
        assert run(machine, "ioctl", 0, trick) == EPERM
    for usual in (0x5401, 0x5413, 0x541B, 0x5421):
        assert run(machine, "ioctl", 0, usual) == 0


@pytest.mark.parametrize("machine", MACHINES)
def test_devices_are_not_made_and_pipes_are(machine: str) -> None:
    for name, at in (("mknod", 1), ("mknodat", 2)):
        if name not in ARGUED[machine]:
            continue
        before = [0] * at
        assert run(machine, name, *before, 0o020666) == EPERM
        assert run(machine, name, *before, 0o060666) == EPERM
        assert run(machine, name, *before, 0o010666) == 0
        assert run(machine, name, *before, 0o100666) == 0


@pytest.mark.parametrize("machine", MACHINES)
def test_personalities_do_not_weaken_memory(machine: str) -> None:
    assert run(machine, "personality", 0xFFFFFFFF) == 0
    assert run(machine, "personality", 0) == 0
    assert run(machine, "personality", 0x0040000) == EPERM  # no random addresses
    assert run(machine, "personality", 0x0100000) == EPERM  # a mapping at address 0


@pytest.mark.parametrize("machine", MACHINES)
def test_prctl_takes_what_programs_use(machine: str) -> None:
    for usual in (1, 4, 15, 22, 36, 38, 0x53564D41, 0x59616D61):
        assert run(machine, "prctl", usual) == 0
    for other in (28, 31, 35, 57, 62, 67, 12345):
        assert run(machine, "prctl", other) == EINVAL


@pytest.mark.parametrize("machine", MACHINES)
def test_other_ways_of_calling_are_refused(machine: str) -> None:
    assert run(machine, 0, audit=0x40000003) == ENOSYS  # 32-bit x86
    assert run(machine, 0, audit=0x40000028) == ENOSYS  # 32-bit arm
    assert run(machine, 0x40000000 | 39) == ENOSYS  # x32


def test_machines_are_known() -> None:
    assert seccomp.supported("x86_64")
    assert seccomp.supported("aarch64")
    assert not seccomp.supported("riscv64")
