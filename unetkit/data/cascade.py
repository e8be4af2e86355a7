"""The label map of the stage before, which the network of a cascade sees beside the image.

Every foreground class (or region) is one more input channel, 1 where the stage before saw it (nnU-Net,
doi:10.1038/s41592-020-01008-z). Until the network takes them the maps stay encoded, a byte a voxel, and lie on the
same grid as the image; outside of an image there is no class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unetkit.data.datasets import Dataset
from unetkit.data.geometry import difference, stored_like
from unetkit.data.labels import encode
from unetkit.data.preprocess import Geometry, Prepared, prepare_previous
from unetkit.data.volumes import known_suffixes, read_volume
from unetkit.errors import DataError, RecipeError
from unetkit.plan.plan import Plan
from unetkit.types import IGNORE, Case, Labels, Volume


@dataclass(frozen=True)
class StageMasks:
    """The label maps of the stage before: a file <case id>.<suffix> each, with the values of the training labels."""

    folder: Path
    labels: Labels

    def read(self, case_id: str, image: Volume) -> Volume:
        """Return the encoded map uint8 [L, *S] of a case on the grid of its image; raises as `file` and below."""
        return read_previous(self.file(case_id), image, self.labels, case_id)

    def file(self, case_id: str) -> Path:
        """Return the file of a case. Raises DataError, naming the case, if there is none."""
        places = (self.folder / f"{case_id}{suffix}" for suffix in known_suffixes)
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise DataError(
                f"case {case_id}: {self.folder} holds no label map of that name from the stage before "
                f"({case_id}.nii.gz, .png, ...); predict the case with the first stage, or name the right folder"
            )
        return found


def open_masks(folder: str | Path | None, plan: Plan) -> StageMasks | None:
    """Return the label maps that `data.previous` names for a cascade, None where the plan is for none.

    Raises RecipeError if a cascade is given no folder, or another plan is given one; DataError if there is none.
    """
    if not plan.previous:
        if folder is not None:
            raise RecipeError(
                f"data.previous={folder}: the configuration {plan.configuration or 'of this plan'} sees no earlier "
                "stage; drop the key, or use plan.configuration=3d_cascade_fullres or plan.previous=true"
            )
        return None
    if folder is None:
        raise RecipeError(
            "data.previous: a cascade needs the label maps of the stage before; give the folder that holds one for "
            "each case, for example the 3d_lowres predictions"
        )
    if not Path(folder).is_dir():
        raise DataError(f"data.previous={folder}: no such folder; give the label maps of the stage before")
    return StageMasks(Path(folder), plan.labels)


def with_masks(dataset: Dataset, case_ids: Sequence[str], folder: str | Path | None, plan: Plan) -> Dataset:
    """Return the data set with the label map of the stage before for each of the cases, if the plan is a cascade's.

    Raises as `open_masks`, and DataError that names the first case without a map: before any work, not in the midst.
    """
    masks = open_masks(folder, plan)
    if masks is None:
        return dataset
    files = {case_id: masks.file(case_id) for case_id in case_ids}
    return replace(dataset, cases=tuple(replace(case, previous=files.get(case.id)) for case in dataset.cases))


def stage_of(case: Case, geometry: Geometry, plan: Plan) -> np.ndarray | None:
    """Return the earlier stage's map of a case on the grid of its prepared image, uint8 [L, *P], or None without one.

    Raises as `read_previous`.
    """
    if case.previous is None:
        return None
    return prepare_previous(read_previous(case.previous, geometry.grid, plan.labels, case.id), geometry, plan)


def read_previous(path: Path, image: Volume, labels: Labels, case_id: str) -> Volume:
    """Read a label map of the stage before; see `encode_previous`. Raises DataError for a file that cannot be used."""
    return encode_previous(read_volume(path, label=True), image, labels, case_id)


def encode_previous(found: Volume, image: Volume, labels: Labels, case_id: str) -> Volume:
    """Return file values [1, *S] as an encoded map uint8 [L, *S] in the axis order of the image.

    What is to be ignored is no class. Raises DataError, naming the case, for another grid or unknown values.
    """
    where = f"case {case_id}: the stage before"
    turned = stored_like(found, image)
    if turned.channels != 1:
        raise DataError(f"{where} gave {turned.channels} channels; give one label map, with the values of the labels")
    if apart := difference(turned, image):
        raise DataError(f"{where} has {apart} of the image; give label maps on the image's own grid")
    encoded = encode(turned.data[0], labels, where)
    encoded[encoded == IGNORE] = 0
    return replace(turned, data=encoded, spacing=image.spacing, affine=image.affine)


def require_previous(given: bool, case_id: str, plan: Plan) -> None:
    """Raise DataError, saying how to give it, if a cascade's case has no label map of the stage before."""
    if plan.previous and not given:
        raise DataError(
            f"case {case_id}: this network is the second stage of a cascade and needs the label map of the first: "
            "give previous=FOLDER to predict, predict(image, previous=label_map) in Python, data.previous=FOLDER "
            "in a recipe or to evaluate"
        )


def one_hot(codes: Tensor, channels: int, regions: bool) -> Tensor:
    """Return encoded maps [B, L, *S] as bool [B, K, *S]: K `channels`, one per foreground class or region."""
    if regions:
        return codes == 1
    numbers = torch.arange(1, channels + 1, device=codes.device, dtype=codes.dtype)
    return codes == numbers.view(-1, *(1,) * (codes.ndim - 2))


def network_input(case: Prepared, plan: Plan) -> Tensor:
    """Return what windows are cut from: image float32 [C, *P], and for a cascade the encoded map below it [C + L, *P].

    Raises DataError for a cascade's case without a map.
    """
    require_previous(case.previous is not None, case.id, plan)
    image = torch.from_numpy(np.asarray(case.data, np.float32))
    if case.previous is None:
        return image
    return torch.cat((image, torch.from_numpy(case.previous).float()))
