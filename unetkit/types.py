"""The objects that travel between rooms; all frozen, none imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetkit.errors import DataError, ShapeError, counted

if TYPE_CHECKING:
    import numpy as np

IGNORE = 255
"""Value of an encoded label voxel that no loss and no metric may look at."""

INSTANCE_LAYERS = 4
"""Layers of an encoded label of instances: class, distance, and two bytes of the object's number."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map [C, *S] with its place in the world.

    `spacing` is in mm per axis of S, in array order. `affine` (4x4) takes array indices to
    RAS+ world coordinates in mm, or is None where the file has none (2D images).
    `header` is whatever the reader needs to write the same geometry again, bit for bit.
    Raises ShapeError if spacing and data disagree.
    """

    data: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None = None
    source: str | None = None
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.data.ndim != len(self.spacing) + 1:
            raise ShapeError(
                f"{self.source or 'volume'}: data of shape {tuple(self.data.shape)} needs {self.data.ndim - 1} "
                f"spacings after the channel axis, {len(self.spacing)} given; data must be [C, *S]"
            )

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.data.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S in voxels."""
        return tuple(int(n) for n in self.data.shape[1:])

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return self.data.ndim - 1


@dataclass(frozen=True)
class Case:
    """One subject: image files (one per channel, or one holding all), label, and whom it belongs to.

    `group` is the patient (or slide, or site) that must not be split; `roi` is a mask outside of which
    nothing counts. Where the data set itself says so, `split` is "train", "val", "test" or the name of a
    further test set ("test_..."), and `fold` the number of the fold in which the case validates. `previous` is the
    label map that an earlier stage of a cascade made of the case. `unlabelled`: it is learned from without a label;
    `label` is then its image, and not read.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    roi: Path | None = None
    split: str | None = None
    fold: int | None = None
    previous: Path | None = None
    unlabelled: bool = False


@dataclass(frozen=True)
class Labels:
    """What the values of a label file mean.

    `classes` are the foreground classes in the order of the network's outputs, `values` the file values
    that make up each. `regions`: classes may overlap, one sigmoid each. Values in `ignore` say nothing.
    `threshold`: the file is a grey mask, values above it are class 1 (then `values` is ((1,),)).
    `background`: values known to mean nothing that is wanted (0 is among them unless a class takes it).
    `strict`: any other value is an error; otherwise it is background.
    `instances`: values number the objects of the only class (then `values` is ((1,),)).
    """

    classes: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    regions: bool = False
    ignore: tuple[int, ...] = ()
    threshold: float | None = None
    strict: bool = True
    background: tuple[int, ...] = ()
    instances: bool = False

    def __post_init__(self) -> None:
        # The order of both is that of the network's outputs, so they have to match one to one.
        if len(self.classes) != len(self.values):
            raise DataError(
                f"{counted(len(self.classes), 'class name')} for {counted(len(self.values), 'set')} of label values; "
                "give one each"
            )

    @property
    def num_outputs(self) -> int:
        """Channels of the network's output: classes and background, one per region, or foreground and distance."""
        return len(self.classes) if self.regions else len(self.classes) + 1

    @property
    def sigmoid(self) -> bool:
        """Whether each output has a sigmoid of its own, for regions and instances; else they share a softmax."""
        return self.regions or self.instances

    @property
    def class_layers(self) -> int:
        """Layers of an encoded label that say where the classes are: one per region, else one of class indices."""
        return len(self.classes) if self.regions else 1

    @property
    def layers(self) -> int:
        """All layers L of an encoded label; those beyond the classes tell instances apart (see `data/instances`)."""
        return INSTANCE_LAYERS if self.instances else self.class_layers


def instance_numbers(encoded: np.ndarray) -> np.ndarray:
    """Return the object of each voxel, uint16 [*S], of an encoded label of instances [4, *S]; what is ignored is 0."""
    low, high = encoded[2], encoded[3].astype("uint16")
    numbers: np.ndarray = (low | high << 8) * (encoded[0] != IGNORE)
    return numbers


@dataclass(frozen=True)
class TaskShape:
    """What a network has to fit: input channels, output channels, patch size in voxels."""

    in_channels: int
    num_classes: int
    patch_size: tuple[int, ...]

    def __post_init__(self) -> None:
        # The usual way to tidy a field of a frozen dataclass: lists and NumPy integers become a tuple of int.
        object.__setattr__(self, "patch_size", tuple(int(n) for n in self.patch_size))
        if len(self.patch_size) not in (2, 3) or min(self.patch_size) < 1:
            raise ShapeError(f"patch_size {self.patch_size}: give 2 or 3 positive whole numbers, one per axis")
        if self.in_channels < 1 or self.num_classes < 1:
            raise ShapeError(
                f"in_channels={self.in_channels}, num_classes={self.num_classes}: both must be at least 1 "
                "(num_classes counts the background)"
            )

    @property
    def dims(self) -> int:
        """2 or 3, the length of `patch_size`."""
        return len(self.patch_size)
