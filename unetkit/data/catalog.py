"""Data sets known by name: where they come from, how they may lie on disk, what their labels mean.

A known data set fills in what the recipe leaves open. The recipes themselves name no classes and no cases, so that
another `data.dataset` on the command line replaces all of it at once. Nothing here imports more than the errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unetkit.errors import RecipeError, nearest

if TYPE_CHECKING:
    from unetkit.recipe.schema import DataSection


@dataclass(frozen=True)
class KnownDataset:
    """One entry of the catalogue.

    `obtain` says in a clause how to get it; `layouts` are those of `data.layout` it is distributed in; `classes` maps
    a foreground class to its value or values in the original label files, in the order of the outputs, and `strict`
    tells whether these are all values; `threshold` is set for grey masks. `train` and `test` list the published sides
    by the number that the pattern `number` finds in a case id. `try_with` is the phantom that stands in for it.
    """

    name: str
    title: str
    dims: tuple[int, ...]
    generated: bool
    obtain: str
    layouts: tuple[str, ...]
    classes: dict[str, int | list[int]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    strict: bool = True
    threshold: float | None = None
    number: str = r"(\d+)"
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    try_with: str = ""
    notes: str = ""

    def side(self, case_id: str) -> str | None:
        """Return "train" or "test" where the published split names the case, else None."""
        # By number, since people keep the files as img0005, case0005, 0005.nii.gz or renamed further.
        found = re.search(self.number, case_id)
        if found is None:
            return None
        sides = {"train": self.train, "test": self.test}
        return next((side for side, numbers in sides.items() if found.group(1) in numbers), None)

    def fill_in(self, section: DataSection) -> DataSection:
        """Return the data section of a recipe with the classes of this data set, unless the recipe has its own.

        A generated set states its classes in its own files, so its section stays as it is.
        """
        if self.generated or section.classes is not None or section.threshold is not None:
            return section
        # The recipe can loosen strictness, not tighten it: what else is in the files is known here.
        known = {"classes": dict(self.classes), "strict": self.strict and section.strict, "threshold": self.threshold}
        if section.channels is None and self.channels:
            known["channels"] = list(self.channels)
        return section.model_copy(update=known)


# The order and the values of the BTCV label files as published evaluations of the 2D protocol use them
# (facts checked against Beckschen/TransUNet; the oesophagus, further veins and the adrenals become background).
_SYNAPSE_CLASSES: dict[str, int | list[int]] = {
    "aorta": 8,
    "gallbladder": 4,
    "left kidney": 3,
    "right kidney": 2,
    "liver": 6,
    "pancreas": 11,
    "spleen": 1,
    "stomach": 7,
}
_SYNAPSE_TRAIN = "0005 0006 0007 0009 0010 0021 0023 0024 0026 0027 0028 0030 0031 0033 0034 0037 0039 0040"
_SYNAPSE_TEST = "0008 0022 0038 0036 0032 0002 0029 0003 0001 0004 0025 0035"

_TORSO_CLASSES: dict[str, int | list[int]] = {
    "liver": 1,
    "gallbladder": 2,
    "stomach": 3,
    "spleen": 4,
    "right kidney": 5,
    "left kidney": 6,
    "aorta": 7,
    "inferior vena cava": 8,
}
_PROVES = "Scores on generated images show that code works, not how accurate it is on patients."

_ENTRIES = (
    KnownDataset(
        name="phantom2d",
        title="Pictures drawn by unetkit: torso (8 organs), cells or vessels",
        dims=(2,),
        generated=True,
        obtain="made on first use",
        layouts=("manifest",),
        classes=_TORSO_CLASSES,
        channels=("grey",),
        notes="data.generator.family is torso, cells or vessels; contrast=random is the hard mode. " + _PROVES,
    ),
    KnownDataset(
        name="phantom3d",
        title="Torso volumes drawn by unetkit: 8 organs, anisotropic voxels",
        dims=(3,),
        generated=True,
        obtain="made on first use",
        layouts=("manifest",),
        classes=_TORSO_CLASSES,
        channels=("image",),
        notes="data.generator.lesion=true adds a lesion (value 9) inside the liver; contrast=random is the hard mode. "
        "Values are on the scale of a CT. " + _PROVES,
    ),
    KnownDataset(
        name="shapes",
        title="Random shapes drawn by unetkit, without stable classes",
        dims=(2, 3),
        generated=True,
        obtain="made on first use",
        layouts=("manifest",),
        classes={f"shape {n}": n for n in range(1, 12)},
        channels=("grey",),
        notes="For pre-training and tests; data.generator.dims is 2 or 3. Its classes cannot be learnt.",
    ),
    KnownDataset(
        name="brain3d",
        title="One averaged brain (MNI152), warped and painted anew for each case: 3 tissues",
        dims=(3,),
        generated=True,
        obtain='made on first use from the tissue maps of the package nilearn; run: pip install "unetkit[brain3d]"',
        layouts=("manifest",),
        classes={"cerebrospinal fluid": 1, "grey matter": 2, "white matter": 3},
        channels=("image",),
        notes="The anatomy is that of a single averaged brain. " + _PROVES,
    ),
    KnownDataset(
        name="synapse",
        title="Synapse multi-organ CT (BTCV abdomen): 8 organs, 18 training and 12 test cases",
        dims=(3,),
        generated=False,
        obtain="sign up at synapse.org and download project syn3193805 (Abdomen, RawData)",
        layouts=("synapse_raw", "synapse_slices", "nnunet", "decathlon", "paired", "manifest"),
        classes=_SYNAPSE_CLASSES,
        channels=("CT",),
        strict=False,
        number=r"(\d{4})",
        train=tuple(_SYNAPSE_TRAIN.split()),
        test=tuple(_SYNAPSE_TEST.split()),
        try_with="phantom3d",
        notes="Case numbers are found in names such as img0005 or case0005. Further values are background.",
    ),
    KnownDataset(
        name="kvasir_seg",
        title="Kvasir-SEG: polyps in colour endoscopy",
        dims=(2,),
        generated=False,
        obtain="download Kvasir-SEG from datasets.simula.no/kvasir-seg (free for research and education)",
        layouts=("paired", "manifest"),
        classes={"polyp": 1},
        threshold=127.0,
        try_with="phantom2d",
        notes="Masks are JPEG with grey edges, hence the threshold. The archive states no split: it is drawn.",
    ),
    KnownDataset(
        name="drive",
        title="DRIVE: vessels of the retina, 20 training and 20 test images with a field of view",
        dims=(2,),
        generated=False,
        obtain="sign up at drive.grand-challenge.org and download the archive",
        layouts=("paired", "manifest"),
        classes={"vessel": 255},
        number=r"^(\d{2})(?:_|$)",
        train=tuple(f"{n:02d}" for n in range(21, 41)),
        test=tuple(f"{n:02d}" for n in range(1, 21)),
        try_with="phantom2d",
        notes="Results count inside the field of view only.",
    ),
    KnownDataset(
        name="msd_hippocampus",
        title="Medical Segmentation Decathlon, task 4: anterior and posterior hippocampus in MR",
        dims=(3,),
        generated=False,
        obtain="download Task04_Hippocampus from medicaldecathlon.com (CC BY-SA 4.0)",
        layouts=("decathlon", "nnunet", "paired", "manifest"),
        classes={"anterior hippocampus": 1, "posterior hippocampus": 2},
        channels=("MR",),
        try_with="phantom3d",
        notes="Intensity scales differ by four orders of magnitude between cases: normalise per case.",
    ),
)

DATASETS: dict[str, KnownDataset] = {entry.name: entry for entry in _ENTRIES}


def known_dataset(name: str) -> KnownDataset:
    """Return an entry of the catalogue. Raises RecipeError with the nearest name if there is none."""
    if name not in DATASETS:
        raise RecipeError(
            f"data.dataset={name}: there is no such data set{nearest(name, DATASETS)}; known are {', '.join(DATASETS)} "
            "(for a folder of your own give data.root instead)"
        )
    return DATASETS[name]


def missing_message(name: str) -> str:
    """Return one line for a recipe whose data are not there: where to get them, how they may lie, what else to try."""
    entry = known_dataset(name)
    if entry.generated:
        return f"data.dataset={name} needs no files: it is {entry.obtain}"
    return (
        f"data.dataset={name} needs your copy of the files: {entry.obtain}, then give data.root=FOLDER "
        f"(layouts: {', '.join(entry.layouts)}); to try the recipe without them, give data.dataset={entry.try_with}"
    )
