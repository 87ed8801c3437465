from intramuros.execution.sandbox.keeping import Facts, Process, Told
from intramuros.execution.snapshots import words


def test_each_loss_is_named() -> None:
    facts = Facts(
        processes=(
            Process(5, 3, "python3 -m http.server"),
            Process(6, 400, "/bin/bash --noprofile --norc"),
            Process(8, 9000, "sleep 1"),
            Process(0, 0, "and 7 more"),
        ),
        sockets=("/workspace/s",),
    )
    told = Told(b"", ("the shell's open file 7 → /etc/passwd",), {6: "( while :; do x; done ) &"})
    assert words.losses(facts, told) == (
        "background process 5 (running for 3 s): python3 -m http.server",
        "background process 6 (running for 6 min): ( while :; do x; done ) &",
        "background process 8 (running for 2 h): sleep 1",
        "background processes: and 7 more",
        "the socket /workspace/s",
        "the shell's open file 7 → /etc/passwd",
    )


def test_nothing_is_said_when_nothing_is_missing() -> None:
    assert words.woken(0.0, (), ()) == ""


def test_what_is_missing_is_said_with_the_time() -> None:
    said = words.woken(1_700_000_000.0, ("background process 5: x",), ("cd: /gone: no such",))
    assert "2023-11-14 22:13:20 UTC" in said
    assert "- background process 5: x\n" in said
    assert "complained:\n- cd: /gone: no such\n" in said
    assert "2023-11-14" in words.away(1_700_000_000.0)
    assert "gone" in words.expired()
    assert "/tmp" in words.lost()


def test_a_notice_is_bounded() -> None:
    said = words.woken(0.0, ("x" * 500,) * 100, ())
    assert len(said) == words.MAX_CHARS
    assert said.endswith("…")
