"""Small data sets written to a folder, as people have them on disk."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from PIL import Image

from unetkit.data.datasets import Dataset, open_dataset
from unetkit.recipe.schema import DataSection

SHAPE = (6, 5, 4)


def affine_of(codes: str, spacing: tuple[float, ...] = (1.5, 1.0, 3.0), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """An affine whose array axes run in the directions of `codes`, with the corner of the body at (-10, 20, 5)."""
    body = np.array([[1, 0, 0, -10], [0, 1, 0, 20], [0, 0, 1, 5], [0, 0, 0, 1]], dtype=float)
    turn = axcodes2ornt(tuple(codes))
    world_shape = np.empty(3, dtype=int)
    for axis, (target, _) in enumerate(turn):
        world_shape[int(target)] = shape[axis]
    return body @ np.linalg.inv(inv_ornt_aff(turn, shape)) @ np.diag([*spacing, 1.0])


def nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array as it is, with sform and qform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine_of("RAS") if affine is None else affine)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)
    nib.save(image, path)
    return path


def picture(path: Path, data: np.ndarray, **options: object) -> Path:
    """Write an array with Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path, **options)
    return path


def volume_case(root: Path, name: str, values: tuple[int, ...] = (0, 1, 2), **folders: str) -> None:
    """An image of noise and a label with a block of each value, below `images` and `labels`."""
    image = np.random.default_rng(len(name)).normal(size=SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    for index, value in enumerate(values):
        label[index] = value
    nifti(root / folders.get("images", "images") / f"{name}.nii.gz", image)
    nifti(root / folders.get("labels", "labels") / f"{name}.nii.gz", label)


def picture_case(root: Path, name: str, mask: np.ndarray, image: np.ndarray | None = None) -> None:
    """A grey picture and its mask as PNG, below `images` and `masks`."""
    noise = np.random.default_rng(0).integers(0, 255, mask.shape[:2], dtype=np.uint8)
    picture(root / "images" / f"{name}.png", noise if image is None else image)
    picture(root / "masks" / f"{name}.png", mask)


def square(inside: int, outside: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """A 16 x 12 mask with a square of one value."""
    mask = np.full((16, 12), outside, dtype)
    mask[4:10, 3:9] = inside
    return mask


def opened(root: Path, **keys: object) -> Dataset:
    """Open a folder as a recipe with these data keys would."""
    return open_dataset(DataSection(root=str(root), **keys))


def write_json(path: Path, tree: object) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path
