"""The plan: every size and rule that data, network and inference have to share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from unetkit.errors import CheckpointError
from unetkit.types import Labels, TaskShape


@dataclass(frozen=True)
class Normalization:
    """How one channel's intensities become network input.

    `scheme`: "ct" clips to [low, high], then subtracts `mean` and divides by `std`, all of the training set;
    "clip_minmax" clips to [low, high] and maps that range to 0..1; "zscore" per case; "zscore_mask" per case
    over nonzero voxels; "percentile" maps the case's 0.5 to 99.5 percentile to 0..1; "minmax" per case;
    "rgb" divides by 255 (or 65535 for 16-bit data); "none".
    """

    scheme: str
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class Plan:
    """What preprocessing, network, training and prediction agree on; stored with every checkpoint.

    Sizes are in voxels and spacings in mm, both after `transpose`, the order in which the axes of the
    canonical (RAS) volume are fed to the network (through-plane first). A 2D `patch_size` over volumes means
    slice by slice along the first transposed axis. `spacing` None: grids are taken as they are.
    `resize`: every image or slice is resized to this in-plane size instead. `strides` and `kernels` per
    stage and `widths` describe plan-driven networks. `configuration` is one of nnU-Net's names for the resolution.
    `batch_dice`: the loss pools its Dice sums over the batch. `previous`: the network also gets the label map of the
    stage before, one channel per class. `expected` holds what was predicted of the training ("memory_gb",
    "seconds_per_step"). `reasons` explains each field in a sentence.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    channels: tuple[str, ...]
    labels: Labels
    normalization: tuple[Normalization, ...]
    spacing: tuple[float, ...] | None = None
    transpose: tuple[int, ...] = ()
    resize: tuple[int, ...] | None = None
    crop_nonzero: bool = False
    resampling: dict[str, Any] = field(default_factory=lambda: {"image": 3, "label": 1, "separate_z": "auto"})
    strides: tuple[tuple[int, ...], ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    widths: tuple[int, ...] = ()
    mirror_axes: tuple[int, ...] = ()
    configuration: str = ""
    batch_dice: bool = False
    previous: bool = False
    expected: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        """2 or 3: what the network sees."""
        return len(self.patch_size)

    @property
    def task(self) -> TaskShape:
        """Channels in, channels out and patch size, as the model registry wants them."""
        earlier = len(self.labels.classes) if self.previous else 0
        return TaskShape(len(self.channels) + earlier, self.labels.num_outputs, self.patch_size)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Plan:
        """Rebuild a plan from `to_json`. Raises CheckpointError if keys are missing or unknown."""
        try:
            tree = dict(tree)
            # JSON has lists only; with tuples a plan equals the one that was stored.
            labels = {k: _frozen(v) for k, v in tree.pop("labels").items()}
            norms = tuple(Normalization(**n) for n in tree.pop("normalization"))
            rest: dict[str, Any] = {k: v if isinstance(v, dict) else _frozen(v) for k, v in tree.items()}
            return cls(labels=Labels(**labels), normalization=norms, **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"this is not a plan of unetkit ({error}); make it anew with `unetkit plan`"
            ) from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
