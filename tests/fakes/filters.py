"""A small interpreter of system-call filters, to judge them without a kernel."""

import struct

ALLOW = 0x7FFF0000


def run(program: bytes, audit: int, number: int, *args: int) -> int:
    """Return the error that a call meets, 0 when it is let through."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, audit, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return 0 if value == ALLOW else value & 0xFFFF
        else:
            hit = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            at += yes if hit else no
