"""nnU-Net's configurations of a data set: which exist for these images and this model, and the grid of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from unetkit.errors import ModelError, RecipeError
from unetkit.plan import budget, nnunet
from unetkit.plan.fingerprint import Fingerprint
from unetkit.plan.grid import Grid
from unetkit.plan.lowres import SEEN, LowResolution, low_resolution
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo
from unetkit.topology import Sizes, pool_topology

FLAT, FULL, LOW, CASCADE = NAMES = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


@dataclass(frozen=True)
class Frame:
    """What the sizes of one configuration (`name`) are chosen on: its grid, and the voxels of the whole data set.

    With planner=nnunet, `budget` is nnU-Net's and `sizes` are what its rules make of all this.
    """

    name: str
    grid: Grid
    setting: budget.Setting
    dataset_voxels: float
    budget: nnunet.Budget | None = None
    sizes: nnunet.Configuration | None = None

    @property
    def dims(self) -> int:
        """Axes that the network sees."""
        return self.setting.dims

    @property
    def transpose(self) -> tuple[int, ...]:
        """Order of the RAS axes as the network sees them."""
        return self.grid.transpose

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Spacing in mm to resample to, of the patch's axes only: a 2D network never resamples across slices."""
        return self.grid.spacing and self.grid.spacing[-self.dims :]

    def topology(self, patch: Sequence[int]) -> tuple[Sizes, Sizes]:
        """Return the strides and kernels that suit a patch."""
        # nnU-Net's follow from the size before padding, which may be halved less often.
        if self.sizes is not None and tuple(patch) == self.sizes.patch_size:
            return self.sizes.strides, self.sizes.kernels
        return pool_topology(patch, self.setting.spacing)[:2]


def full_frame(grid: Grid, name: str, fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> Frame:
    """Return the frame of a configuration at full resolution, from which that of the lower one is made."""
    dims = 2 if name == FLAT else 3
    own = nnunet_budget(fingerprint, recipe, info) if recipe.plan.planner == "nnunet" else None
    sizes = None
    if own is not None:
        sizes = nnunet.configuration(grid.near[-dims:], grid.shape[-dims:], grid.voxels, own)
    setting = budget.Setting(
        shape=_whole(grid.shape[-dims:]),
        spacing=grid.near[-dims:],
        num_outputs=len(fingerprint.labels.classes) + 1,
        memory_gb=own.gigabytes if own else budget.memory_target(recipe.plan.memory_gb),
        info=info,
    )
    return Frame(name, grid, setting, grid.voxels, own, sizes)


def coarse_frame(full: Frame, low: LowResolution) -> Frame:
    """Return the frame of the lower resolution."""
    setting = replace(full.setting, shape=_whole(low.shape), spacing=low.spacing)
    sizes = None
    if full.budget is not None:
        sizes = nnunet.coarse_configuration(low.spacing, low.shape, full.budget)
    grid = replace(full.grid, spacing=low.spacing, shape=low.shape)
    return replace(full, grid=grid, setting=setting, sizes=sizes, dataset_voxels=grid.voxels)


def low_stage(full: Frame, patch: Sequence[int]) -> LowResolution | None:
    """Return the lower resolution that a volume network with this patch needs to see where it is, if any."""
    grid, own = full.grid, full.budget
    if full.dims == 2 or grid.spacing is None:
        return None

    def patch_at(spacing: tuple[float, ...], shape: tuple[float, ...]) -> Sequence[int]:
        # Memory decides of voxels, not of mm: our own planner's patch is about as large at any spacing.
        return patch if own is None else nnunet.coarse_configuration(spacing, shape, own).patch_size

    first = full.sizes.patch_size if full.sizes is not None else patch
    return low_resolution(grid.spacing, grid.shape, first, patch_at)


def nnunet_budget(fingerprint: Fingerprint, recipe: Recipe, info: ModelInfo) -> nnunet.Budget:
    """Return what nnU-Net's planner counts with; the preset is the model's own unless the recipe names one.

    Raises RecipeError if the preset is made for another network.
    """
    name = recipe.plan.preset or (info.presets[0] if info.presets else "plain")
    # Any other network may be trained at the sizes of each, as papers that compare networks do.
    if info.presets and name not in info.presets:
        raise RecipeError(
            f"plan.preset={name} is made for another network than {info.name}; use {' or '.join(info.presets)}, or "
            "change model.name"
        )
    # nnU-Net counts the entries of its label list: the background, each class, and what is ignored.
    labels = 1 + len(fingerprint.labels.classes) + bool(fingerprint.labels.ignore)
    asked = recipe.plan.memory_gb
    gigabytes = None if asked == "auto" else float(asked)
    return nnunet.Budget(len(fingerprint.cases), labels, nnunet.preset_of(name), gigabytes)


def single(recipe: Recipe) -> str | None:
    """Return the one configuration that the recipe names, if any. Raises RecipeError if it names several."""
    asked = recipe.plan.configuration
    if isinstance(asked, list) and len(asked) == 1:
        asked = asked[0]
    if asked == "all" or isinstance(asked, list):
        either = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
        raise RecipeError(f"plan.configuration={asked} is for a study of several runs; a plan needs one: {either}")
    return asked


def choose_name(grid: Grid, recipe: Recipe, info: ModelInfo) -> str:
    """Return the configuration that the recipe asks for, or the widest that data and model allow.

    Raises RecipeError if the data have no such configuration, ModelError if the model cannot work on such images.
    """
    asked, patch = single(recipe), recipe.data.patch_size
    if asked is not None:
        if why := refusal(asked, grid, recipe, info):
            raise RecipeError(f"plan.configuration={asked}: {why}")
        return asked
    if patch is not None and len(patch) == 3 and not grid.volumes:
        what = "the images are 2D" if len(grid.shape) == 2 else "the median volume has one slice"
        raise RecipeError(f"data.patch_size {list(patch)} is for volumes, but {what}; give two numbers")
    # the widest that both can, unless the recipe says; a 2D network sees volumes slice by slice
    dims = len(patch) if patch is not None else min(3 if grid.volumes else 2, max(info.dims))
    if dims not in info.dims:
        able = " and ".join(f"{d}D" for d in info.dims)
        raise ModelError(
            f"{info.name} works in {able} only, this needs {dims}D; choose another model, or for volumes a "
            f"data.patch_size of {info.dims[0]} numbers"
        )
    return FLAT if dims == 2 else FULL


def refusal(name: str, grid: Grid, recipe: Recipe, info: ModelInfo) -> str | None:
    """Return why data, model or recipe have no such configuration, whatever the sizes; None if they may."""
    dims, patch = 2 if name == FLAT else 3, recipe.data.patch_size
    if dims == 3 and len(grid.shape) == 2:
        return "the images are 2D; use 2d"
    if dims == 3 and not grid.volumes:
        return "the median volume has one slice; use 2d"
    if dims not in info.dims:
        return f"{info.name} works in {info.dims[0]}D only; choose another configuration or model"
    if patch is not None and len(patch) != dims:
        return f"data.patch_size {list(patch)} has {len(patch)} numbers, this needs {dims}"
    if name in (LOW, CASCADE) and grid.spacing is None:
        return (
            "without resampling there is no lower resolution; drop data.resize or plan.spacing=native, or use " + FULL
        )
    return None


def explain(full: Frame, patch: Sequence[int], low: LowResolution | None, recipe: Recipe) -> str:
    """Return why this configuration, and what the patch at full resolution sees of the median image."""
    why = "as the recipe says" if recipe.plan.configuration else "the widest that data and model allow"
    if full.name == FLAT:
        return why
    seen = prod(patch) / prod(full.grid.shape)
    why += f"; the patch at full resolution sees {min(seen, 1):.0%} of the median image"
    if low is None:
        return why + ", so that no lower one is needed" if seen >= SEEN else why + ", but a lower one would gain little"
    return why + (
        f", under {SEEN:.0%}, so that there is a lower resolution: {low.steps} steps of 3 % lead to "
        f"{' x '.join(f'{s:.3g}' for s in low.spacing)} mm with {' x '.join(str(n) for n in _whole(low.shape))} voxels"
    )


def no_low_stage(full: Frame, patch: Sequence[int]) -> RecipeError:
    """Return the error for a lower resolution that these images do not need."""
    seen = prod(patch) / prod(full.grid.shape)
    return RecipeError(
        f"plan.configuration={full.name}: the patch {list(patch)} sees {seen:.0%} of the median image of "
        f"{list(_whole(full.grid.shape))} voxels, and a lower resolution is planned only for patches below {SEEN:.0%} "
        f"of images that it makes half as large; use {FULL}"
    )


def _whole(shape: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n)) for n in shape)
