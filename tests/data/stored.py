"""A data set of a few small volumes, and what it takes to prepare it."""

from pathlib import Path

import nibabel as nib
import numpy as np

from unetkit.plan.plan import Normalization, Plan
from unetkit.types import Case, Labels

PLAN = Plan(
    patch_size=(12, 12, 12),
    batch_size=2,
    channels=("MR",),
    labels=Labels(("a", "b"), ((1,), (2,)), ignore=(9,)),
    normalization=(Normalization("zscore"),),
    transpose=(2, 1, 0),
    spacing=(1.5, 1.0, 1.0),
    crop_nonzero=True,
)


def make_case(root: Path, name: str, shape: tuple[int, ...] = (20, 18, 12)) -> Case:
    """Write an image with a zero border and a label with two classes and ignored voxels; spacing 1 x 1 x 2 mm."""
    rng = np.random.default_rng(sum(map(ord, name)))
    image = np.zeros(shape, np.int16)
    image[2:-1, 1:, :] = rng.integers(1, 1000, (shape[0] - 3, shape[1] - 1, shape[2]))
    label = (image > 600).astype(np.uint8) + (image > 900)
    label[:, :, 0] = 9
    paths = root / f"{name}.nii.gz", root / f"{name}_seg.nii.gz"
    for path, data in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return Case(name, paths[:1], paths[1])


def parts(store: Path) -> dict[str, int]:
    """The parts in a store and when each was written."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("v*/*/[!.]*.npy")}
