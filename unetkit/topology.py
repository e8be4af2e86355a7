"""How often each axis of a patch is halved and which kernels fit its spacing.

The rule of nnU-Net (doi:10.1038/s41592-020-01008-z): axes join the pooling once their spacing is within a
factor of two of the finest, and kernels stay flat along an axis until then. Plan and networks share it.
"""

from collections.abc import Sequence

Sizes = tuple[tuple[int, ...], ...]
CLOSE = 2.0
"""Spacings whose ratio is below this are treated alike."""


def pool_topology(
    patch_size: Sequence[float], spacing: Sequence[float], min_edge: int = 4
) -> tuple[Sizes, Sizes, tuple[int, ...]]:
    """Return (strides, kernels, divisor): one stride and kernel per stage, and what each patch side must divide by.

    `patch_size` is in voxels (the halves of a median size count), `spacing` in mm, same axes; no axis becomes shorter
    than `min_edge` voxels.
    The first stride is 1 on every axis; the last kernel, that of the bottleneck, is 3 on every axis.
    """
    size, spacing = list(patch_size), list(spacing)
    axes = range(len(size))
    kernel, pools = [1] * len(size), [0] * len(size)
    strides, kernels = [tuple([1] * len(size))], []
    while True:
        pooled = _axes_to_pool(size, spacing, min_edge)
        if not pooled:
            break
        # a kernel that has grown to 3 stays so; the spacing that decides is the one before this pooling
        kernel = [3 if k == 3 or spacing[a] / min(spacing) < CLOSE else 1 for a, k in enumerate(kernel)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in pooled else 1 for a in axes))
        for a in pooled:
            spacing[a], size[a], pools[a] = spacing[a] * 2, -(-size[a] // 2), pools[a] + 1
    kernels.append(tuple([3] * len(size)))
    return tuple(strides), tuple(kernels), tuple(2**n for n in pools)


def _axes_to_pool(size: Sequence[float], spacing: Sequence[float], min_edge: int) -> list[int]:
    """Return the axes that are long enough and fine enough to be halved next; empty ends the pooling."""
    long = [a for a, n in enumerate(size) if n >= 2 * min_edge]
    if not long:
        return []
    finest = min(spacing[a] for a in long)
    fine = [a for a in long if spacing[a] / finest < CLOSE]
    return [] if len(fine) == 1 and size[fine[0]] < 3 * min_edge else fine
