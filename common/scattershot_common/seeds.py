"""Seeds of all random numbers, derived from the study's seed and what each is for."""

from __future__ import annotations

from hashlib import blake2b


def derive(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed that depends on `seed` and `purpose` alone.

    Keyed, stateless seeds make a number independent of who draws it and when: trial 7's third
    epoch gets the same data order on one worker or on a hundred, before a crash or after it.

    >>> derive(0, "trial", 7) == derive(0, "trial", 7)
    True
    >>> derive(0, "trial", 7) == derive(0, "trial", 8)
    False
    """
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1
