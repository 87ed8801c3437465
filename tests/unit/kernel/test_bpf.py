import random
import struct

import pytest

from intramuros.kernel import bpf
from intramuros.kernel.bpf import Answer, AnyBit, Decision, OneOf
from tests.fakes.filters import run

AUDIT = 0xC000003E


def verdict(decision: Decision, *args: int) -> int:
    return run(bpf.program(AUDIT, {7: decision}, [(0, 1)]), AUDIT, 7, *args)


def test_a_number_finds_its_own_decision_whatever_surrounds_it() -> None:
    rand = random.Random(5)
    for _ in range(30):
        chosen = rand.sample(range(700), rand.randint(1, 400))
        numbers: dict[int, Decision] = {n: Answer(rand.choice([0, 0, 2, 3])) for n in chosen}
        code = bpf.program(AUDIT, numbers, [(0, 1), (300, 38), (500, 1)])
        for number in [*range(710), 2**31, 2**32 - 1]:
            default = Answer(38 if 300 <= number < 500 else 1)
            wanted = numbers.get(number, default)
            assert isinstance(wanted, Answer)
            assert run(code, AUDIT, number) == wanted.error


def test_far_jumps_reach_their_ends() -> None:
    many = OneOf(0, tuple(range(200)), Answer(), Answer(9))
    numbers: dict[int, Decision] = dict.fromkeys(range(0, 30, 2), many)
    code = bpf.program(AUDIT, numbers, [(0, 1)])
    for number in range(32):
        passed = run(code, AUDIT, number, 199), run(code, AUDIT, number, 200)
        assert passed == ((0, 9) if number % 2 == 0 and number < 30 else (1, 1))


def test_values_masks_and_bits_of_arguments() -> None:
    one = OneOf(2, (3, 5), Answer(), Answer(22))
    assert [verdict(one, 3, 3, value) for value in (3, 4, 5)] == [0, 22, 0]
    masked = OneOf(1, (0x2000,), Answer(1), Answer(), mask=0xF000)
    assert [verdict(masked, 0, value) for value in (0x2FFF, 0x1000, 0x12000)] == [1, 0, 1]
    bit = AnyBit(0, 0x80000001, Answer(13), Answer())
    assert [verdict(bit, value) for value in (1, 2, 0x80000000, 0)] == [13, 0, 13, 0]


def test_decisions_nest() -> None:
    inner = OneOf(1, (1,), Answer(), Answer(2))
    tree = OneOf(0, (10,), AnyBit(2, 4, Answer(3), inner), OneOf(0, (11,), inner, Answer(4)))
    assert verdict(tree, 10, 1, 0) == 0
    assert verdict(tree, 10, 5, 0) == 2
    assert verdict(tree, 10, 1, 4) == 3
    assert verdict(tree, 11, 1) == 0
    assert verdict(tree, 12, 1) == 4


def test_only_the_low_word_of_an_argument_counts() -> None:
    one = OneOf(0, (2,), Answer(), Answer(22))
    assert verdict(one, 2 | 1 << 40) == 0


def test_another_architecture_meets_the_last_error() -> None:
    code = bpf.program(AUDIT, {7: Answer()}, [(0, 1), (500, 38)])
    assert run(code, 0x40000003, 7) == 38


def test_a_filter_the_kernel_would_not_take_is_refused() -> None:
    many = OneOf(0, tuple(range(250)), Answer(), Answer(9))
    numbers: dict[int, Decision] = dict.fromkeys(range(0, 60, 2), many)
    with pytest.raises(ValueError, match="too long"):
        bpf.program(AUDIT, numbers, [(0, 1)])


def test_instructions_are_eight_bytes() -> None:
    code = bpf.program(AUDIT, {}, [(0, 1)])
    assert len(code) % struct.calcsize("=HBBI") == 0
