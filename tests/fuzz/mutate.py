"""Byte mutations of well-formed files: seeded, so that a number says which file it was."""

import random
from collections.abc import Sequence

NUMBERS = (
    *(b"0", b"-1", b"1", b"2", b"1e999", b"-1e-400", b"nan", b"inf", b"NaN", b"Infinity", b"1e308", b"null", b"true"),
    *(b"9223372036854775808", b"4294967296", b"999999999999", b"1" * 5000, b"0x10", b"1_0", b"1:60", b"2026-99-99"),
    *(b'""', b"[]", b"{}", b"\xc2\xb2", b"\xe2\x80\xae", b"\x00", b"\x1b[31m", b"\xff\xfe", b'"\\ud800"'),
)
"""What takes the place of a number, or of anything else."""

WORDS = (
    *(b"<<: ", b"&a ", b"*a", b"!!int ", b"!!binary ", b"? ", b"- ", b"|\n", b">\n", b"---\n", b"#", b"'", b'"', b"\\"),
    *(b"{", b"}", b"[", b"]", b":", b"=", b",", b"..", b"/", b"../", b"\n", b"\r", b"\t", b" ", b"\xef\xbb\xbf"),
    *(b"Lattice=", b"Properties=", b"pbc=", b"columns:", b"cell:", b"ndim:", b"species:S:1:", b"pos:R:3", b"id,x,y,z"),
    *(b'"__metadata__"', b'"dtype"', b'"F64"', b'"shape"', b'"data_offsets"', b"[" * 200, b"{" * 60, b'{"a":' * 150),
)
"""Pieces that parsers act on."""


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """The file of a number: one of the seeds with one to eight changes; the seeds themselves come first."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(number)
    content = bytearray(rng.choice(seeds))
    for _ in range(1 + int(rng.expovariate(0.7)) % 8):
        _change(content, rng, seeds)
    return bytes(content)


def _change(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    place = rng.randrange(len(content) + 1)
    kind = rng.randrange(10)
    if kind <= 1 and content:
        content[place % len(content)] ^= 1 << rng.randrange(8)
    elif kind == 2 and content:
        content[place % len(content)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 3:
        content[place:place] = rng.choice(WORDS)
    elif kind == 4:
        start, end = _word(content, place)
        content[start:end] = rng.choice(NUMBERS)
    elif kind == 5:
        del content[place : place + _length(rng)]
    elif kind == 6:
        piece = bytes(content[place : place + _length(rng)])
        at = rng.randrange(len(content) + 1)
        content[at:at] = piece * rng.choice((1, 1, 1, 2, 30))
    elif kind == 7:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        content[place : place + _length(rng)] = other[start : start + _length(rng)]
    elif kind == 8:
        content[place : place + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, rng.getrandbits(64).to_bytes(8, "little")))
    elif rng.random() < 0.3:
        del content[place:]


def _length(rng: random.Random) -> int:
    return 1 + int(rng.expovariate(0.05))


def _word(content: bytearray, place: int) -> tuple[int, int]:
    """The stretch of letters, digits, signs and points about a place."""
    inside = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._"
    start = end = place
    while start > 0 and place - start < 30 and content[start - 1] in inside:
        start -= 1
    while end < len(content) and end - place < 30 and content[end] in inside:
        end += 1
    return start, end
