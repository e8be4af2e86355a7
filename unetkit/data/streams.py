"""Random numbers that belong to a place: the same for a seed and its counters, whoever asks and whenever."""

import numpy as np

PATCHES, AUGMENTATION, ORDER, LOCATIONS = range(4)
"""Independent streams of random numbers."""


def random_stream(stream: int, seed: int, *counters: int) -> np.random.Generator:
    """Return the generator that belongs to this stream, seed and counters, and to no others."""
    # Counter-based and seeded by place: the stream of step 10 exists without those of steps 0 to 9.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([stream, seed % 2**64, *counters])))
