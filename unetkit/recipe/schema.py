"""Every key a recipe may have, with its default, range and meaning.

A key stands here once: the reader checks against it, `unetkit show` prints it, the engine reads it. Unknown keys
are refused, values are not converted (`true` is no number, `"3"` is no integer).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from unetkit.recipe.section import Fraction, Positive, PositiveFloat, Section, Size
from unetkit.recipe.training import PretrainSection, TrainSection

LabelValue = int | list[int]
Scheme = Literal["auto", "ct", "clip_minmax", "zscore", "zscore_mask", "percentile", "minmax", "rgb", "none"]


class ModelSection(Section):
    """Which network; any further key is an option of that model's builder (see `unetkit show model=NAME`)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, protected_namespaces=(), defer_build=True)
    name: str = Field("unet", description="name in the registry (`unetkit list models`)")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that go to the model's builder."""
        return dict(self.model_extra or {})


class SplitSection(Section):
    """Who trains, who validates, who is only tested; patients are never divided."""

    kind: Literal["auto", "fixed", "random", "kfold"] = Field(
        "auto",
        description="auto: what the data set states, else random; fixed: the id lists below or the data set's own",
    )
    folds: Annotated[int, Field(ge=2)] = Field(5, description="number of folds for kfold")
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0, description="which fold validates; all trains every fold, in one study"
    )
    val_fraction: Fraction = Field(0.2, description="share of the training groups that validates (random)")
    test_fraction: Fraction = Field(0.0, description="share of all groups that is kept for the test (random, kfold)")
    seed: int = Field(12345, description="seed of the shuffling; the same seed gives the same split on any machine")
    train: list[str] | None = Field(None, description="case or group ids that train (fixed)")
    val: list[str] | None = Field(None, description="case or group ids that validate (fixed)")
    test: list[str] | None = Field(None, description="case or group ids of the test set (fixed)")

    @model_validator(mode="after")
    def _agrees(self) -> SplitSection:
        if self.kind == "kfold" and self.fold != "all" and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist among {self.folds} folds; give 0 to {self.folds - 1}")
        if self.kind in ("random", "kfold") and (self.train or self.val or self.test):
            raise ValueError(f"kind {self.kind} contradicts lists of case ids; use kind=fixed or drop the lists")
        if self.kind != "kfold" and self.fold == "all":
            raise ValueError(f"fold=all needs kind=kfold, not kind={self.kind}; add data.split.kind=kfold")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction leave nothing to train on; keep their sum below 1")
        return self


class DataSection(Section):
    """Where the images are and what their labels mean."""

    root: str | None = Field(None, description="folder (or manifest file) with the data")
    dataset: str | None = Field(None, description="name of a known data set (`unetkit list datasets`)")
    layout: Literal["auto", "paired", "nnunet", "decathlon", "manifest", "synapse_raw", "synapse_slices"] = Field(
        "auto", description="how the folder is laid out; auto recognises it"
    )
    cases: Positive | None = Field(
        None, description="number of cases to generate (phantoms) or to keep of each split, for a quick try"
    )
    classes: dict[str, LabelValue] | None = Field(
        None, description="foreground classes in output order: name -> label value(s) in the files"
    )
    regions: bool = Field(False, description="classes overlap: one sigmoid output per class, no background output")
    instances: bool = Field(
        False, description="label values number the objects of one class, which are told apart (AP, PQ)"
    )
    ignore: list[int] = Field([], description="label values that neither loss nor metrics look at")
    threshold: float | None = Field(None, description="label files are grey masks: above this value is foreground")
    strict: bool = Field(True, description="label values that no class names are an error; false: they are background")
    channels: list[str] | None = Field(None, description="name of each input channel; CT selects CT normalisation")
    normalization: Scheme | Annotated[list[Scheme], Field(min_length=1)] = Field(
        "auto",
        description="intensity normalisation of every channel, or a list with one for each; auto goes by channel name "
        "and file type",
    )
    clip: tuple[float, float] | None = Field(None, description="intensity range for ct and clip_minmax")
    patch_size: Size | None = Field(
        None, description="patch the network sees, in voxels; two numbers over volumes train slices"
    )
    resize: Size | None = Field(
        None, description="resize every image or slice to this size in plane (instead of patches)"
    )
    generator: dict[str, Any] = Field({}, description="options of a generated data set (contrast, size, seed, ...)")
    cache: Literal["auto", "memory", "disk", "none"] = Field(
        "auto",
        description="preprocessed cases: kept in memory, in a store on disk that is read patch by patch, or made anew "
        "each time; auto: memory where they take a quarter of it at most",
    )
    store: str | None = Field(None, description="folder of the store; without it unetkit's own cache folder")
    previous: str | None = Field(
        None, description="folder with label maps of the stage before, one a case (the cascade writes it by itself)"
    )
    split: SplitSection = SplitSection()

    @model_validator(mode="after")
    def _agrees(self) -> DataSection:
        if self.root is not None and self.dataset is not None and not _needs_root(self.dataset):
            raise ValueError(f"root and dataset={self.dataset} contradict each other; give one of them")
        # Contradictions are refused here, where both values are at hand, and not where one of them would lose.
        if self.threshold is not None and self.classes is not None and len(self.classes) != 1:
            raise ValueError(
                f"threshold makes one foreground class, classes names {len(self.classes)}; drop one of the two"
            )
        if self.instances and (self.regions or self.threshold is not None or len(self.classes or "1") != 1):
            raise ValueError(
                "instances are the numbered objects of one class; drop regions and threshold, name one class"
            )
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip [{self.clip[0]}, {self.clip[1]}]: the first value must be below the second")
        schemes = [self.normalization] if isinstance(self.normalization, str) else self.normalization
        if self.clip is not None and not any(scheme in ("auto", "ct", "clip_minmax") for scheme in schemes):
            raise ValueError(f"clip is not used by normalization={','.join(schemes)}; drop it or use clip_minmax")
        if self.store is not None and self.cache in ("memory", "none"):
            raise ValueError(f"store is not used by cache={self.cache}; drop it or use cache=disk")
        if self.patch_size and self.resize and len(self.resize) != 2:
            raise ValueError("resize is in plane: give two numbers")
        return self


def _needs_root(dataset: str) -> bool:
    """Data sets that are read from the user's folder, as opposed to those that unetkit generates."""
    return not dataset.startswith(("phantom", "shapes", "brain3d"))


Configuration = Literal["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]


class PlanSection(Section):
    """How the plan is made, and overrides of it; what is not given is decided from the data."""

    planner: Literal["unetkit", "nnunet"] = Field(
        "unetkit", description="unetkit: sizes by measuring the model's memory; nnunet: nnU-Net's own rules"
    )
    preset: Literal["plain", "M", "L", "XL"] | None = Field(
        None, description="which of nnU-Net's planners (planner=nnunet); without it plain, or M for a residual encoder"
    )
    configuration: Configuration | list[Configuration] | Literal["all"] | None = Field(
        None,
        description="resolution to work at; several (or all that suit the data) train one after the other, in one "
        "study; without it the widest that data and model allow",
    )
    file: str | None = Field(
        None,
        description="use this plan instead of making one: a plan.json, or a plans file of nnU-Net (PATH, or PATH#NAME "
        "for a configuration of your own); other keys go on top",
    )
    spacing: tuple[PositiveFloat, ...] | Literal["native"] | None = Field(
        None, description="target spacing in mm, or native for no resampling"
    )
    transpose: tuple[int, ...] | None = Field(None, description="order of the RAS axes as the network sees them")
    strides: list[tuple[Positive, ...]] | None = Field(None, description="stride per stage and axis")
    kernels: list[tuple[Positive, ...]] | None = Field(None, description="kernel per stage and axis")
    widths: list[Positive] | None = Field(None, description="channels per stage")
    previous: bool = Field(
        False,
        description="the network also sees the label map of a stage before (data.previous), whatever the configuration",
    )
    crop_nonzero: bool | None = Field(None, description="cut away the zero border before anything else")
    image_order: Literal[0, 1, 3] | None = Field(None, description="spline order for resampling images")
    memory_gb: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="memory target for patch and batch, in GB; auto: the GPU's, at most 24, or 8 without a GPU "
        "(planner=nnunet: what the preset is made for)",
    )

    @model_validator(mode="after")
    def _agrees(self) -> PlanSection:
        if self.preset is not None and self.planner != "nnunet":
            raise ValueError(f"preset={self.preset} is one of nnU-Net's planners; add plan.planner=nnunet or drop it")
        if self.file is not None and (self.planner != "unetkit" or self.memory_gb != "auto"):
            raise ValueError("file holds a plan already, so that planner, preset and memory_gb do nothing; drop them")
        if self.file is not None and self.previous:
            raise ValueError("file holds a plan, which says itself whether there is a stage before; drop previous")
        return self


class PostprocessRule(Section):
    """One step on a predicted label map, on the grid of its image; components touch at faces, edges or corners."""

    rule: Literal["keep_largest", "drop_small", "fill_holes", "swap_sides"] = Field(
        description="swap_sides: components on the wrong side of the image's middle change to the other class"
    )
    classes: list[str] | None = Field(
        None, description="names of classes; without it each of them; of swap_sides the left and the right one"
    )
    together: bool = Field(False, description="the classes count as one object (keep_largest, drop_small)")
    smallest: PositiveFloat | None = Field(
        None, description="components below go (drop_small), in mm3, or pixels where there is no spacing"
    )

    @model_validator(mode="after")
    def _agrees(self) -> PostprocessRule:
        if (self.rule == "drop_small") != (self.smallest is not None):
            raise ValueError("drop_small needs smallest, and no other rule reads it; give both or neither")
        if self.rule == "swap_sides" and len(self.classes or ()) != 2:
            raise ValueError("swap_sides needs two classes, the left one first")
        if self.together and self.rule not in ("keep_largest", "drop_small"):
            raise ValueError(f"together is not read by {self.rule}; drop it")
        return self


class InferSection(Section):
    """Prediction of whole cases, in validation and afterwards."""

    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="share of a window its neighbour covers")
    window_batch: Positive = Field(1, description="windows per forward pass, mirrored copies counted")
    mirror: bool = Field(False, description="average over all mirrored inputs")
    restore: Literal["logits", "labels"] = Field(
        "logits",
        description="back to the input grid: interpolate the logits, or labels to the nearest (Synapse protocol)",
    )
    depth: Positive | Literal["all"] | None = Field(
        None,
        description="of a UNet++ trained with deep supervision: predict with its first so many columns only; all: "
        "`unetkit evaluate run=RUN` compares every depth",
    )
    foreground_threshold: Fraction = Field(
        0.5, description="instances: chance above which a voxel belongs to an object"
    )
    marker_threshold: Fraction = Field(
        0.5,
        description="instances: distance to the border, 1 in an object's middle, above which connected voxels mark an "
        "object; lower joins, higher splits",
    )
    query_score: Fraction = Field(
        0.5, description="instances from queries: score above which a query is an object; low for a ranked AP (0.01)"
    )
    query_nms: Fraction = Field(
        0.8, description="instances from queries: IoU above which of two masks the one of the better score stays"
    )
    smallest_object: Annotated[int, Field(ge=0)] = Field(
        0, description="instances: objects of fewer voxels are dropped"
    )
    postprocess: list[PostprocessRule] = Field(
        [], description="steps on the label maps, in this order: `[{rule: keep_largest, classes: [liver]}]`"
    )


class EvaluateSection(Section):
    """What is measured on whole cases."""

    empty: Literal["skip", "one", "synapse", "worst", "zero"] = Field(
        "skip",
        description="a class absent from the reference: skip it; one: both empty counts as perfect; "
        "synapse: the published rule of the Synapse code; worst: as one, and infinite distances become the diagonal; "
        "zero: both empty counts 0, as in U-Bench",
    )
    surface: Literal["voxel", "element"] = Field(
        "voxel", description="surface definition: border voxels or area elements"
    )
    hd95: Literal["max", "pooled"] = Field(
        "max", description="of the two directions' percentiles, or over the pooled distances (MedPy)"
    )
    tolerance_mm: PositiveFloat = Field(2.0, description="of the surface Dice (in pixels where there is no spacing)")
    spacing: Literal["file", "unit"] = Field("file", description="unit: distances in voxels, as some papers print")
    distances: bool = Field(True, description="HD95, ASSD and surface Dice; false: overlap only")


class Recipe(Section):
    """Everything one run depends on besides the data itself."""

    description: str = Field("", description="one line shown by `unetkit list recipes`")
    seed: int = Field(0, description="of weights, sampling and augmentation")
    output: str = Field("runs", description="folder that receives the run folders")
    name: str | None = Field(None, description="name of the run folder; without it recipe, data and a number")
    task: Literal["segment", "pretrain"] = Field(
        "segment",
        description="pretrain: learn from images alone, by train.pretrain, for a training that starts with "
        "train.init=RUN; what is said of labels, classes, loss and metrics is then not looked at",
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    plan: PlanSection = PlanSection()
    train: TrainSection = TrainSection()
    infer: InferSection = InferSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _pretrains(self) -> Recipe:
        if self.task != "pretrain":
            if self.train.pretrain != PretrainSection():
                raise ValueError("train.pretrain is read by task=pretrain alone; add that, or drop the section")
            return self
        refused = {
            "data.split.fold=all": self.data.split.fold == "all",
            "several plan.configuration": self.plan.configuration == "all" or isinstance(self.plan.configuration, list),
            "plan.previous": self.plan.previous or self.data.previous is not None,
            "train.patience": self.train.patience is not None,
            "train.deep_supervision=true": self.train.deep_supervision is True,
        }
        if found := [name for name, given in refused.items() if given]:
            raise ValueError(f"task=pretrain has no use for {', '.join(found)}; drop it")
        return self

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if self.train.loss.name == "dice_bce" and not self.data.regions:
            raise ValueError(
                "train.loss.name=dice_bce is for overlapping classes; set data.regions=true or use dice_ce"
            )
        if self.train.schedule.min_lr > self.train.optimizer.lr:
            raise ValueError(
                f"train.schedule.min_lr={self.train.schedule.min_lr:g} is above train.optimizer.lr="
                f"{self.train.optimizer.lr:g}, so the rate would rise; lower one of them"
            )
        configuration = self.plan.configuration
        joined = not isinstance(configuration, str | None) or configuration in ("all", "3d_cascade_fullres")
        if self.data.instances and (joined or self.plan.previous):
            raise ValueError(
                "data.instances: objects are told apart by one network; choose plan.configuration=2d, 3d_fullres or "
                "3d_lowres, and drop plan.previous"
            )
        # Soft-max lets one class win a voxel; overlapping regions need a sigmoid each.
        if self.data.regions and self.train.loss.name in ("dice_ce", "ce"):
            raise ValueError(
                f"train.loss.name={self.train.loss.name} is for exclusive classes; use dice_bce with data.regions"
            )
        return self
