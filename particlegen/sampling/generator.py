"""A random generator for compiled kernels: xoshiro256++ whose whole state is an array that the caller owns.

Numba's global generator is not used: it is shared by everything in a process, so results would depend on the
worker. Here a stream is seeded from `streams.stream_seed(seed, stage, chain, chunk)` and nothing else.
"""

import numpy as np
from numba import njit

__all__ = ["next_uint64", "seeded_state", "uniform", "uniform_index"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_DOUBLE = 1.0 / (1 << 53)


def seeded_state(seed: int) -> np.ndarray:
    """The state `(4,)` uint64 of xoshiro256++, filled by splitmix64 from a 64-bit seed.

    Source: Blackman & Vigna 2021, "Scrambled linear pseudorandom number generators"; Steele et al. 2014.

    >>> [int(word) for word in seeded_state(0)][:2]
    [16294208416658607535, 7960286522194355700]
    """
    state = np.empty(4, np.uint64)
    word = seed & 0xFFFFFFFFFFFFFFFF
    for k in range(4):
        word = (word + int(_STEP)) & 0xFFFFFFFFFFFFFFFF
        mixed = word
        mixed = ((mixed ^ (mixed >> 30)) * int(_MIX_A)) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * int(_MIX_B)) & 0xFFFFFFFFFFFFFFFF
        state[k] = mixed ^ (mixed >> 31)
    return state


@njit(cache=True, nogil=True)
def next_uint64(state):
    """The next 64 random bits; advances `state` `(4,)` uint64 in place."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    t = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3
    return result


@njit(cache=True, nogil=True)
def uniform(state):
    """A float64 in [0, 1) with 53 random bits."""
    return (next_uint64(state) >> np.uint64(11)) * _DOUBLE


@njit(cache=True, nogil=True)
def uniform_index(state, n):
    """An integer in 0..n−1; the bias of n/2^53 is far below anything a simulation can see."""
    return int(uniform(state) * n)
