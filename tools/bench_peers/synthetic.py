"""Synthetic anatomy for the peer benchmarks: smooth blobs of many sizes, and a flawed copy."""

from __future__ import annotations

import numpy as np


def label_volume(shape: tuple[int, int, int], classes: int, seed: int = 0) -> np.ndarray:
    """Ellipsoids with a wavy surface; class k's radius shrinks with k, as organs' sizes do."""
    rng = np.random.default_rng(seed)
    out = np.zeros(shape, np.uint8)
    dims = np.array(shape)
    for k in range(1, classes + 1):
        rad = np.maximum(3.0, dims * (0.20 - 0.16 * (k - 1) / max(1, classes - 1)) * rng.uniform(0.8, 1.2, 3))
        centre = rng.uniform(rad + 1, np.maximum(dims - rad - 1, rad + 2))
        lo = np.maximum(0, np.floor(centre - 1.3 * rad)).astype(int)
        hi = np.minimum(dims, np.ceil(centre + 1.3 * rad) + 1).astype(int)
        z, y, x = np.ogrid[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
        dz, dy, dx = ((g - c) / r for g, c, r in zip((z, y, x), centre, rad, strict=False))
        theta = np.arctan2(dy + 0 * dz, dx + 0 * dz)
        wave = 1 + 0.12 * np.sin(4 * theta + rng.uniform(0, 6)) * np.cos(3 * dz + rng.uniform(0, 6))
        inside = dz**2 + dy**2 + dx**2 < wave**2
        sub = out[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
        sub[inside] = k
    return out


def flawed_copy(labels: np.ndarray, seed: int = 1, islands: int = 6) -> np.ndarray:
    """Shift each class by a voxel or so, nibble its border, and drop in a few false islands."""
    from scipy import ndimage as ndi

    rng = np.random.default_rng(seed)
    out = np.zeros_like(labels)
    for k in range(1, int(labels.max()) + 1):
        m = labels == k
        m = np.roll(m, rng.integers(-2, 3, 3), (0, 1, 2))
        m = ndi.binary_dilation(m) if rng.random() < 0.5 else ndi.binary_erosion(m)
        out[m] = k
    dims = np.array(labels.shape)
    for _ in range(islands):
        c = rng.integers(6, dims - 6)
        r = int(rng.integers(1, 5))
        out[c[0] - r : c[0] + r, c[1] - r : c[1] + r, c[2] - r : c[2] + r] = int(rng.integers(1, labels.max() + 1))
    return out


def soft_scores(labels: np.ndarray, classes: int, sigma: float, seed: int = 2) -> np.ndarray:
    """Network-like soft-max scores (classes incl. background, float32) around a label map."""
    from scipy import ndimage as ndi

    rng = np.random.default_rng(seed)
    out = np.empty((classes, *labels.shape), np.float32)
    for k in range(classes):
        out[k] = ndi.gaussian_filter((labels == k).astype(np.float32), sigma)
        out[k] += 0.02 * rng.random(labels.shape, dtype=np.float32)
    out /= out.sum(0, keepdims=True)
    return out
