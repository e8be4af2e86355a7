"""Augmentation of 2D images (photographs, radiographs, microscopy) with albumentations, seeded sample by sample.

The same table is drawn from as for volumes. Which sample rotates, scales, bends, turns and mirrors is settled by its
draw; the transforms of intensity decide for themselves, from the draw's seed.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unetkit.data.augment import Sample, finished, turned
from unetkit.data.augment_table import Chance, Intensity, Table
from unetkit.data.lenses import lens_sources
from unetkit.types import IGNORE


def _without_update_check() -> ModuleType:
    """Import albumentations without its request to the package index, which costs seconds where there is no network."""
    quiet = ModuleType("albumentations.check_version")
    quiet.check_for_updates = lambda: None  # type: ignore[attr-defined]
    sys.modules.setdefault("albumentations.check_version", quiet)
    import albumentations

    return albumentations


A = _without_update_check()
_LINEAR, _NEAREST = 1, 0  # interpolation codes of OpenCV
_BLACK_BORDER = 0


class ImageAugmenter:
    """Turns cut samples of 2D images into a batch: image float32 [B, C, H, W] and label uint8 [B, L, H, W]."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.intensity = A.Compose(_intensity_transforms(table.intensity))

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Apply what was drawn for each sample; the same draw gives the same result."""
        images, labels = zip(*map(self._one, samples), strict=True)
        return torch.stack(images), torch.stack(labels)

    def _one(self, sample: Sample) -> tuple[Tensor, Tensor]:
        # [C, H, W] -> [H, W, C], as OpenCV wants it.
        image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        label = np.ascontiguousarray(sample.label.permute(1, 2, 0).numpy())
        image, label = self._in_space(image, label, sample)
        image = self._in_range(image, sample.draw.seed)
        draw = sample.draw
        planes, masks = (torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))) for a in (image, label))
        return finished(turned(planes, draw), turned(masks, draw), draw, self.table)

    def _in_space(self, image: np.ndarray, label: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        draw = sample.draw
        moves = []
        common = {
            "interpolation": _NEAREST if draw.nearest else _LINEAR,
            "mask_interpolation": _NEAREST,
            "border_mode": _BLACK_BORDER,
            "fill_mask": IGNORE,
            "p": 1.0,
        }
        if draw.matrix is not None:
            # The matrix is a rotation times one factor, so a row has the factor as its length.
            zoom = math.hypot(*draw.matrix[0])
            angle = math.degrees(math.atan2(draw.matrix[1, 0], draw.matrix[0, 0]))
            # The matrix leads from patch to image; albumentations asks for the way of the content, the inverse zoom.
            moves.append(A.Affine(scale=1 / zoom, rotate=(angle, angle), **common))
        if draw.bend:
            width = min(image.shape[:2]) / self.table.elastic_grid / 2
            # Uniform noise has a deviation of 1/sqrt(3), of which a Gaussian of this width leaves 1/(2 sqrt(pi) width).
            strength = draw.bend * 2 * math.sqrt(3 * math.pi) * width
            moves.append(A.ElasticTransform(alpha=strength, sigma=width, noise_distribution="uniform", **common))
        if moves:
            chain = A.Compose(moves)
            chain.set_random_seed(draw.seed % 2**32)
            result = chain(image=image, mask=label)
            image, label = _with_channels(result["image"]), _with_channels(result["mask"])
        # The margin was read for the corners that a rotation brings in; now it has done its work.
        (top, left), (height, width) = sample.margin, image.shape[:2]
        inner = slice(top, height - top), slice(left, width - left)
        image, label = image[inner], label[inner]
        if not draw.lenses:
            return image, label
        sources = tuple(lens_sources(image.shape[:2], draw.lenses))
        return image[sources], label[sources]

    def _in_range(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Change intensities within 0..1, where albumentations expects floats, whatever range the image has."""
        if not self.intensity.transforms:
            return image
        low, high = float(min(image.min(), 0)), float(max(image.max(), 1))
        # The seed is the sample's own: albumentations would go on from the call before.
        self.intensity.set_random_seed(seed % 2**32)
        changed = self.intensity(image=(image - low) / (high - low))["image"]
        return _with_channels(changed) * (high - low) + low


def _with_channels(array: np.ndarray) -> np.ndarray:
    return array[..., None] if array.ndim == 2 else array


def _intensity_transforms(table: Intensity) -> list[Any]:
    """Return the rows of the table as albumentations transforms, in the order of the volumes' pipeline."""
    rows = [
        (table.noise, lambda row: A.GaussNoise(std_range=(row.low, row.high), p=row.p)),
        (table.blur, lambda row: A.GaussianBlur(blur_limit=0, sigma_limit=(row.low, row.high), p=row.p)),
        (table.brightness, _brightness),
        (table.contrast, lambda row: A.RandomBrightnessContrast(0.0, (row.low - 1, row.high - 1), p=row.p)),
        (table.low_resolution, _low_resolution),
        (table.gamma_inverted, _gamma_inverted),
        (table.gamma, _gamma),
    ]
    return [make(row) for row, make in rows if row.p > 0]


def _brightness(row: Chance) -> Any:
    return A.MultiplicativeNoise(multiplier=(row.low, row.high), per_channel=True, elementwise=False, p=row.p)


def _low_resolution(row: Chance) -> Any:
    down_and_up = {"downscale": _NEAREST, "upscale": _LINEAR}
    return A.Downscale(scale_range=(row.low, row.high), interpolation_pair=down_and_up, p=row.p)


def _gamma(row: Chance) -> Any:
    return A.RandomGamma(gamma_limit=(100 * row.low, 100 * row.high), p=row.p)


def _gamma_inverted(row: Chance) -> Any:
    # As -gamma(-x) for volumes: the bright end of the range is spread instead of the dark one.
    return A.Sequential([A.InvertImg(p=1.0), _gamma(replace(row, p=1.0)), A.InvertImg(p=1.0)], p=row.p)
