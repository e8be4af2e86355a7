"""Brains of three tissues: the averaged MNI152 brain, warped and painted anew for each case.

The tissue maps (ICBM 2009a symmetric, Fonov et al. 2011) come with the package nilearn, which is found but not
imported. There is one anatomy only: the cases differ by a smooth deformation and by their greys.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import map_coordinates

from unetkit.data.phantoms.fields import smooth_noise
from unetkit.data.phantoms.options import Brain
from unetkit.data.phantoms.render import add_noise, draw_greys, paint, store_volume, thicken, touching
from unetkit.data.phantoms.sample import Generator, Sample
from unetkit.errors import DataError

_FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
TISSUES = {0: "background", 1: "cerebrospinal fluid", 2: "grey matter", 3: "white matter"}

# The maps have voxels of 1 mm; blocks of this side are averaged into one voxel.
_BLOCK = 2

# Greys of the fixed contrast, in the order of a T1 image.
_GREYS = {0: 0.02, 1: 0.3, 2: 0.62, 3: 0.84}


def brain3d(options: Brain) -> Generator:
    """Return the generator of `brain3d`. Raises DataError if nilearn, which brings the maps, is not installed."""
    maps, affine = _tissue_maps()

    def draw(rng: np.random.Generator) -> Sample:
        label = _warped_labels(rng, maps, options.warp / _BLOCK)
        greys, distance = draw_greys(rng, _GREYS, touching(label), options)
        image, cut = thicken(paint(rng, label, greys, options), label, options.thick_slices)
        stored = store_volume(add_noise(rng, image, options))
        spacing = (_BLOCK, _BLOCK, _BLOCK * options.thick_slices)
        facts = {"grey_distance": round(distance, 3)}
        return Sample(stored[None], cut, spacing=tuple(float(s) for s in spacing), facts=facts)

    return Generator(
        draw,
        TISSUES,
        ("image",),
        description="One averaged brain (MNI152, from nilearn), warped and painted anew for each case: many images, a "
        "single anatomy. Scores on it show that code works, not how accurate it is on patients.",
        example=(np.asarray(_read("t1").dataobj), affine),
    )


def _read(kind: str) -> nib.Nifti1Image:
    """Open one of the maps by its path in the installed package."""
    found = find_spec("nilearn")
    if found is None or found.origin is None:
        raise DataError(
            "data.dataset=brain3d needs the tissue maps that come with the package nilearn, which is not installed; "
            'run: pip install "unetkit[brain3d]"'
        )
    path = Path(found.origin).parent / _FILE.format(kind)
    if not path.is_file():
        raise DataError(f"this nilearn has no file {path.name}; run: pip install --upgrade nilearn")
    return nib.Nifti1Image.from_filename(path)


def _tissue_maps() -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of fluid, grey and white matter [3, *S] in 0..1 and the affine of the T1 image (1 mm)."""
    grey, white, t1 = (_read(kind) for kind in ("gm", "wm", "t1"))
    shares = [np.asarray(image.dataobj, dtype=np.float32) / 255 for image in (grey, white)]
    # The T1 image holds the brain alone; what is neither grey nor white matter in it is fluid.
    inside = (np.asarray(t1.dataobj) > 0).astype(np.float32)
    fluid = np.clip(inside - shares[0] - shares[1], 0, 1)
    return np.stack([_averaged(share) for share in (fluid, *shares)]), np.asarray(t1.affine)


def _averaged(share: np.ndarray) -> np.ndarray:
    """Average blocks of voxels, after padding with nothing to whole blocks."""
    # [x, y, z] -> [x/2, 2, y/2, 2, z/2, 2], averaged over the twos.
    padded = np.pad(share, [(0, -n % _BLOCK) for n in share.shape])
    blocks = padded.reshape([side for n in padded.shape for side in (n // _BLOCK, _BLOCK)])
    return blocks.mean(axis=(1, 3, 5))


def _warped_labels(rng: np.random.Generator, maps: np.ndarray, deviation: float) -> np.ndarray:
    """Return tissue numbers [*S] of the brain seen through displacements of `deviation` voxels."""
    shape = maps.shape[1:]
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    where = np.stack([axis + np.float32(deviation) * smooth_noise(rng, shape, 4) for axis in grid])
    shares = [map_coordinates(share, where, order=1, mode="constant") for share in maps]
    # The background competes with its own share, so that the brain's edge lies where half a voxel is brain.
    nothing = 1 - sum(shares)
    return np.argmax(np.stack([nothing, *shares]), axis=0).astype(np.uint8)
