"""Fuzz the tunnel multiplexer for a given time.

``python -m fuzz.mux [--seconds N] [--seed N]``

Valid traffic is cut, joined, repeated and damaged, then fed to both kinds of end, whole and byte by
byte. Whatever comes in, an end may only return events or raise :class:`MuxViolation`; both ways of
feeding must agree; what waits to be sent and what is held must stay small. A failing input is
printed as hexadecimal.
"""

import argparse
import random
import sys
import time

from intramuros.protocol.mux import MAX_PENDING_REPLIES, Event, Mux, Received, Side
from intramuros.protocol.mux_frames import (
    Code,
    FrameType,
    Hello,
    MuxViolation,
    Open,
    encode_goaway,
    encode_hello,
    encode_open,
    encode_u32,
    frame,
)

MAX_STREAMS = 8


def valid_frame(dice: random.Random) -> bytes:
    """Return a frame that is well-formed, though not always in place."""
    stream_id = dice.choice([1, 1, 1, 2, 3, 4, 2**31 - 1])
    payload = dice.randbytes(dice.choice([1, 5, 100, 5000, 70000]))
    return dice.choice(
        [
            encode_hello(Hello()),
            encode_open(stream_id, Open("docs.t.example", 1000, "t-1", "sesn_1")),
            frame(FrameType.DATA, stream_id, payload),
            encode_u32(FrameType.WINDOW, stream_id, dice.choice([1, 65536, 2**31 - 1])),
            frame(FrameType.FIN, stream_id),
            encode_u32(FrameType.RST, stream_id, dice.choice(list(Code))),
            frame(FrameType.PING, 0, b"12345678"),
            frame(FrameType.PONG, 0, b"12345678"),
            encode_goaway(1, Code.DRAIN),
        ]
    )


def damaged(dice: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few of them changed, dropped or doubled."""
    changed = bytearray(data)
    for _ in range(dice.choice([0, 0, 1, 1, 2, 8])):
        at = dice.randrange(len(changed))
        match dice.randrange(3):
            case 0:
                changed[at] = dice.randrange(256)
            case 1:
                del changed[at]
            case _:
                changed[at:at] = changed[at : at + dice.randrange(40)]
    return bytes(changed)


def traffic(dice: random.Random) -> bytes:
    """Return what a peer might say."""
    frames = [encode_hello(Hello())] if dice.random() < 0.95 else []
    frames += [valid_frame(dice) for _ in range(dice.randrange(1, 12))]
    return damaged(dice, b"".join(frames))


def joined(events: list[Event]) -> list[object]:
    """Return the events with neighbouring data of a stream joined, which may be cut anywhere."""
    result: list[object] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, Received)
            and isinstance(last, Received)
            and last.stream_id == event.stream_id
        ):
            result[-1] = Received(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result


def outcome(side: Side, pieces: list[bytes]) -> tuple[list[object], Code | None]:
    """Feed the pieces; return the events and the violation's code.

    A violation in the middle of a piece discards that piece's events, so only the code is compared
    then.
    """
    mux, events = Mux(side, Hello(max_streams=MAX_STREAMS)), list[Event]()
    try:
        for piece in pieces:
            events += mux.receive(piece)
            assert mux.open_streams <= MAX_STREAMS
            waiting = sum(map(len, mux.data_to_send()))
            assert waiting <= MAX_PENDING_REPLIES + 4096, f"{waiting} bytes wait"
    except MuxViolation as violation:
        return [], violation.code
    return joined(events), None


def main() -> int:
    """Fuzz until the time is up; the status is 1 if something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    dice, runs = random.Random(arguments.seed), 0
    until = time.monotonic() + arguments.seconds
    print(f"seed {arguments.seed}", flush=True)
    while time.monotonic() < until:
        data, side = traffic(dice), dice.choice(list(Side))
        size = 1 if len(data) < 4000 else dice.randrange(1, 4000)
        try:
            whole = outcome(side, [data])
            cut = outcome(side, [data[i : i + size] for i in range(0, len(data), size)])
            # PING answers that fit when read at once may not when read in one go, and the reverse.
            assert whole == cut, f"{whole[1]} whole, {cut[1]} in pieces of {size}"
        except Exception as error:
            print(f"FAILED after {runs} runs: {error!r}\n{side.value} {data.hex()}")
            raise
        runs += 1
    print(f"{runs} runs, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
