"""nnU-Net's plans files, read into our plans and written from them.

nnU-Net counts axes as its readers give them: z, y, x, which for a file stored along right, anterior and superior are
the RAS axes 2, 1, 0. So its axis a is our axis 2 - a, and `transpose_forward` becomes our `transpose` by that; sizes,
spacings, strides and kernels stand after the transposition in both and are the same. nnU-Net never turns a volume: of
files that are stored in another order (sagittal slices, say) its axes lie elsewhere in the body, and ours do not.
2D images have an axis of one slice in front there, which is dropped. Volumes whose files say nothing of their place
keep the order of their array in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetkit.data.declared import declared_from, final_labels
from unetkit.data.layouts.found import read_json
from unetkit.errors import DataError, RecipeError, nearest
from unetkit.plan.check import check_plan
from unetkit.plan.nnunet_format import NO_RESAMPLING, RESIDUAL, SCHEMES, Section, checked, modern
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import DataSection
from unetkit.types import Labels

_NAMES = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
_PROPERTIES = "foreground_intensity_properties_per_channel"
_FORMER_PROPERTIES = "foreground_intensity_properties_by_modality"

_KEYS = (
    *("dataset_name", "plans_name", "original_median_spacing_after_transp", "original_median_shape_after_transp"),
    *("image_reader_writer", "transpose_forward", "transpose_backward", "configurations", "experiment_planner_used"),
    *("label_manager", _PROPERTIES, _FORMER_PROPERTIES),
)


@dataclass(frozen=True)
class Images:
    """What a plans file does not say of its images: meaning of the labels, names of the channels, axes.

    `placed`: the files say how their axes lie in the body.
    """

    labels: Labels
    channels: tuple[str, ...]
    dims: int = 3
    placed: bool = True


@dataclass(frozen=True)
class Network:
    """Which of nnU-Net's networks a file plans, and its blocks or convolutions per stage, finest first."""

    name: str
    blocks: tuple[int, ...]
    decoder: tuple[int, ...]

    @property
    def residual(self) -> bool:
        """Whether it has a residual encoder."""
        return self.name == RESIDUAL


def read_nnunet_plans(path: str | Path, configuration: str, dataset: str | Path | Images) -> Plan:
    """Return one configuration of nnU-Net's plans file as a plan.

    `configuration` is any name in the file, those of a user's own and inherited ones too; `dataset` is the path of
    the data set's dataset.json, which holds the labels, or what it would say. A file that plans 2d alone is taken to be
    of 2D images then. Raises DataError for a file that cannot be read, RecipeError, in one line, for contents that
    contradict themselves or that have no counterpart here.
    """
    tree = read_tree(Path(path))
    images = dataset if isinstance(dataset, Images) else _images(Path(dataset), tree)
    return read_configuration(Path(path), configuration, images)[0]


def configurations_in(path: Path) -> tuple[str, ...]:
    """Return the names of a file's configurations. Raises as `read_nnunet_plans` does."""
    return tuple(read_tree(path)["configurations"])


def read_tree(path: Path) -> dict[str, Any]:
    """Return the JSON object of a plans file. Raises DataError if it is none, RecipeError if it is another one."""
    tree = read_json(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("configurations"), dict):
        raise RecipeError(
            f"{path}: no plans of nnU-Net, which have `configurations`; give nnUNetPlans.json or the like"
        )
    if unknown := [key for key in tree if key not in _KEYS]:
        raise RecipeError(f"{path}: unknown key '{unknown[0]}'{nearest(unknown[0], _KEYS)}; correct the file")
    return tree


def read_configuration(path: Path, name: str, images: Images) -> tuple[Plan, Network]:
    """Return a configuration as a plan, and the network that it was made for."""
    tree = read_tree(path)
    chain, merged = _inherited(tree["configurations"], name, path)
    try:
        section = checked(modern(merged), f"{path}: {name}")
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{path}: {name} misses {error}; correct the file, or plan anew") from error
    sizes, origin = section.architecture.arch_kwargs, f"as {path.name} says"
    plan = Plan(
        patch_size=tuple(section.patch_size),
        batch_size=section.batch_size,
        channels=images.channels,
        labels=images.labels,
        normalization=_normalization(tree, section, f"{path}: {name}"),
        spacing=None if section.resampling_fn_data == NO_RESAMPLING else tuple(section.spacing),
        transpose=_transpose(tree, images, path),
        crop_nonzero=True,
        resampling={
            "image": section.resampling_fn_data_kwargs.order,
            "label": section.resampling_fn_seg_kwargs.order,
            "separate_z": _separate(section.resampling_fn_data_kwargs.force_separate_z),
        },
        strides=_rows(sizes.strides),
        kernels=_rows(sizes.kernel_sizes),
        widths=tuple(sizes.features_per_stage),
        configuration=_standard(chain, section),
        batch_dice=section.batch_dice,
        previous=section.previous_stage is not None,
        reasons=dict.fromkeys(("patch_size", "batch_size", "spacing", "transpose", "normalization"), origin),
    )
    try:
        if sizes.n_stages != len(sizes.strides):
            raise RecipeError(f"n_stages {sizes.n_stages}, but {len(sizes.strides)} strides; give one per stage")
        check_plan(plan)
    except RecipeError as error:
        raise RecipeError(f"{path}: {name}: {error}") from error
    stages = len(sizes.strides)
    blocks = sizes.n_blocks_per_stage or sizes.n_conv_per_stage or ()
    decoder = _counts(sizes.n_conv_per_stage_decoder, stages - 1)
    return plan, Network(section.architecture.network_class_name.rpartition(".")[2], _counts(blocks, stages), decoder)


def _images(path: Path, tree: Mapping[str, Any]) -> Images:
    """Read labels and channels of a dataset.json."""
    stated = read_json(path)
    if not isinstance(stated, dict) or "labels" not in stated:
        raise DataError(f"{path}: no dataset.json of nnU-Net, which has `labels`; give that of the data set")
    labels, _ = final_labels(DataSection(), declared_from(stated["labels"]), lambda declared: (None, []))
    if labels is None:
        raise DataError(f"{path}: `labels` names no foreground class; name one")
    names = stated.get("channel_names") or stated.get("modality") or {}
    flat = list(tree["configurations"]) == ["2d"]
    return Images(labels, tuple(str(names[key]) for key in sorted(names, key=int)), 2 if flat else 3)


def _inherited(held: Mapping[str, Any], name: str, path: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the names from the configuration to its last parent, and the configuration with what it inherits."""
    chain: list[str] = []
    merged: dict[str, Any] = {}
    following: Any = name
    while following is not None:
        if following in chain:
            raise RecipeError(f"{path}: {' inherits from '.join([*chain, following])}, a circle; cut it")
        if not isinstance(held.get(following), dict):
            asked = f"inherited by {chain[-1]}" if chain else "asked for"
            raise RecipeError(
                f"{path}: no configuration '{following}' ({asked}){nearest(str(following), held)}; there are "
                f"{', '.join(held)}"
            )
        chain.append(following)
        own = held[following]
        merged, following = {**own, **merged}, own.get("inherits_from")
    return chain, merged


def _standard(chain: Sequence[str], section: Section) -> str:
    """Return which of nnU-Net's four names a configuration amounts to."""
    if section.previous_stage is not None:
        return "3d_cascade_fullres"
    known = [name for name in chain if name in _NAMES]
    return known[0] if known else ("2d" if len(section.patch_size) == 2 else "3d_fullres")


def _transpose(tree: Mapping[str, Any], images: Images, path: Path) -> tuple[int, ...]:
    order = tree.get("transpose_forward", [0, 1, 2])
    if not isinstance(order, list) or sorted(map(str, order)) != ["0", "1", "2"]:
        raise RecipeError(f"{path}: transpose_forward {order}: give the axes 0, 1 and 2 in some order")
    if images.dims == 2:
        return ()
    return tuple(2 - a for a in order) if images.placed else tuple(order)


def _normalization(tree: Mapping[str, Any], section: Section, where: str) -> tuple[Normalization, ...]:
    schemes, masks = section.normalization_schemes, section.use_mask_for_norm
    if len(masks) != len(schemes):
        raise RecipeError(
            f"{where}: {len(schemes)} normalization_schemes and {len(masks)} use_mask_for_norm; give one each"
        )
    seen = tree.get(_PROPERTIES) or tree.get(_FORMER_PROPERTIES) or {}
    found = []
    for channel, (scheme, masked) in enumerate(zip(schemes, masks, strict=True)):
        if scheme not in SCHEMES:
            raise RecipeError(
                f"{where}: normalisation {scheme}{nearest(scheme, SCHEMES)}: known are {', '.join(SCHEMES)}"
            )
        ours = SCHEMES[scheme]
        if ours == "ct":
            found.append(_clipped(seen, channel, where))
        else:
            found.append(Normalization("zscore_mask" if ours == "zscore" and masked else ours))
    return tuple(found)


def _clipped(seen: Mapping[str, Any], channel: int, where: str) -> Normalization:
    try:
        facts = seen[str(channel)]
        keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
        return Normalization("ct", *(float(facts[key]) for key in keys))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: CTNormalization of channel {channel} needs percentile_00_5, percentile_99_5, mean and std in "
            f"{_PROPERTIES}; give them"
        ) from error


def _separate(forced: bool | None) -> bool | str:
    return "auto" if forced is None else forced


def _rows(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _counts(counts: Any, stages: int) -> tuple[int, ...]:
    return (counts,) * stages if isinstance(counts, int) else tuple(counts)
