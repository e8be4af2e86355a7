"""Every key a recipe may have, with its default, range and meaning.

A key stands here once: the reader checks against it, `unetkit show` prints it, the engine reads it. Unknown keys
are refused, values are not converted (`true` is no number, `"3"` is no integer).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Size = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
LabelValue = int | list[int]
Scheme = Literal["auto", "ct", "clip_minmax", "zscore", "zscore_mask", "percentile", "minmax", "rgb", "none"]


class Section(BaseModel):
    """A group of keys: strict, closed, and unchangeable once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


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


class OptimizerSection(Section):
    """The optimiser."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd with momentum, or adamw")
    lr: PositiveFloat = Field(0.01, description="learning rate after the warm-up, before any decay")
    momentum: Fraction = Field(0.99, description="of sgd")
    nesterov: bool = Field(True, description="of sgd")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="of adamw")
    weight_decay: NonNegative = Field(3e-5, description="L2 penalty of sgd, decoupled decay of adamw")


class ScheduleSection(Section):
    """The learning rate over time, updated at every step."""

    name: Literal["poly", "cosine", "constant"] = Field(
        "poly", description="way down from the learning rate: (1 - t)^power, half a cosine, or none"
    )
    power: PositiveFloat = Field(0.9, description="exponent of poly")
    warmup: NonNegative = Field(0.0, description="epochs of linear warm-up")
    min_lr: NonNegative = Field(0.0, description="floor of the learning rate")


class LossSection(Section):
    """What is minimised; weights are relative."""

    name: Literal[
        "auto",
        "dice_ce",
        "dice_bce",
        "dice",
        "ce",
        "focal",
        "tversky",
        "boundary",
        "distance",
        "focal_l1",
        "jaccard_metric",
        "focal_l1_jaccard",
    ] = Field(
        "auto",
        description="auto: dice_bce for regions, distance for instances, else dice_ce; focal_l1_jaccard: SAUNA's sum "
        "of the two",
    )
    dice_weight: NonNegative = Field(1.0, description="weight of the soft Dice term")
    ce_weight: NonNegative = Field(1.0, description="weight of the cross-entropy (or BCE) term")
    batch_dice: bool | Literal["auto"] = Field(
        "auto", description="pool Dice sums over the batch; auto: as the plan says"
    )
    dice_background: bool = Field(False, description="count the background in Dice")
    dice_squared: bool = Field(False, description="square the terms of the denominator")
    smooth: NonNegative = Field(1e-5, description="added to numerator and denominator of Dice and Tversky")
    focal_gamma: NonNegative = Field(
        2.0, description="how much less an easy voxel counts in the focal loss; 0: as much"
    )
    tversky_alpha: NonNegative = Field(0.3, description="weight of false positives")
    tversky_beta: NonNegative = Field(0.7, description="weight of false negatives")
    boundary_weight: NonNegative = Field(
        0.1, description="weight of the boundary term beside dice_ce, at the end of training"
    )
    class_weights: list[NonNegative] | None = Field(None, description="of the cross-entropy, one per output")
    distance_weight: NonNegative = Field(
        1.0, description="weight of the distance to the objects' borders, beside the dice_bce of the foreground"
    )
    targets: Literal["labels", "sauna"] = Field(
        "labels",
        description="what focal_l1 and jaccard_metric compare with: -1 and 1 by the label, or SAUNA's soft labels, "
        "unsure at borders and in thin vessels (with data.regions)",
    )
    l1_alpha: NonNegative = Field(2.0, description="weight in focal_l1 of a voxel on the right side of 0")
    l1_beta: NonNegative = Field(1.0, description="how much less such a voxel counts the closer it is in focal_l1")
    l1_positive: NonNegative = Field(1.0, description="weight in focal_l1 of a voxel whose target is above 0")
    jaccard_weight: NonNegative = Field(1.0, description="weight of jaccard_metric in focal_l1_jaccard")


class AugmentSection(Section):
    """Random changes of the training samples; probabilities are per sample."""

    preset: Literal["nnunet", "none", "light", "synapse"] = Field(
        "nnunet", description="table of transforms; light: mirror, rotate 90, brightness; synapse: as TransUNet"
    )
    mirror: bool | list[int] = Field(True, description="false, or the array axes that may be mirrored")
    left_right: list[tuple[str, str]] = Field(
        [], description="class names that swap when the left-right axis is mirrored"
    )
    rotation_p: Fraction | None = Field(None, description="probability of rotation, instead of the preset's")
    rotation_degrees: NonNegative | None = Field(None, description="largest angle, instead of the preset's")
    scale_p: Fraction | None = Field(None, description="probability of scaling, instead of the preset's")
    scale: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="smallest and largest factor, instead of the preset's; above 1 shows more of the image"
    )
    elastic_p: Fraction = Field(0.0, description="probability of an elastic deformation")
    elastic_magnitude: NonNegative = Field(6.0, description="standard deviation of the displacements in voxels")
    elastic_grid: Positive = Field(8, description="control points per axis")
    lens_p: Fraction = Field(0.0, description="probability of a multi-lens distortion (DRU-Net)")
    lens_count: Positive = Field(4, description="lenses of such a sample")
    lens_radius: tuple[Positive, Positive] = Field((40, 110), description="smallest and largest radius in voxels")
    lens_strength: Fraction = Field(0.4, description="largest strength; half of the lenses enlarge, half shrink")
    intensity: bool = Field(
        True, description="noise, blur, brightness, contrast, low resolution and gamma of the preset"
    )


class PretrainSection(Section):
    """Training on images alone (task=pretrain)."""

    method: Literal["mae", "barlow"] = Field(
        "mae",
        description="mae: hide parts of the image and restore them (masked autoencoder, arXiv:2111.06377); barlow: "
        "make the encoder see the same in two augmented copies (Barlow Twins, arXiv:2103.03230)",
    )
    mask_ratio: Fraction = Field(0.75, description="share of the parts that mae hides")
    mask_patch: Positive | Size = Field(16, description="side of such a part in voxels, or one for each axis")
    projector: Annotated[list[Positive], Field(min_length=1)] = Field(
        [8192, 8192, 8192], description="widths of the layers above the encoder's pooled map (barlow)"
    )
    off_diagonal: NonNegative = Field(
        0.005, description="weight of the correlations between different outputs (barlow; lambda of the paper)"
    )

    @model_validator(mode="after")
    def _agrees(self) -> PretrainSection:
        own = {"mae": {"mask_ratio", "mask_patch"}, "barlow": {"projector", "off_diagonal"}}
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        for name in sorted(set().union(*own.values()) - own[self.method]):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is not used by method={self.method}; drop it, or change the method")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio {self.mask_ratio:g} hides all or nothing; give a share between 0 and 1")
        return self


class TrainSection(Section):
    """The training loop."""

    epochs: Positive = Field(100, description="length of the training; the learning rate follows it")
    steps_per_epoch: Positive | None = Field(
        None, description="steps of an epoch; without it one pass over the cases (or slices)"
    )
    batch_size: Positive | None = Field(
        None, description="samples per step, of each process under torchrun; without it the plan decides"
    )
    accumulate: Positive = Field(1, description="batches whose gradients are added before a step")
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    loss: LossSection = LossSection()
    pretrain: PretrainSection = PretrainSection()
    augment: AugmentSection = AugmentSection()
    oversample: Fraction = Field(0.33, description="share of a batch's patches that must hold foreground")
    balance_classes: bool = Field(True, description="foreground patches draw the class first, then a voxel of it")
    deep_supervision: bool | Literal["auto"] = Field(
        "auto", description="train lower-resolution outputs where the model has them"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device computes in it"
    )
    clip_norm: PositiveFloat | None = Field(12.0, description="largest gradient norm; null: none")
    ema: Fraction = Field(0.0, description="decay of the averaged weights; 0: none")
    compile: bool = Field(False, description="torch.compile, falling back with a reason")
    channels_last: bool | Literal["auto"] = Field(
        "auto", description="memory layout of the tensors; auto: where it is known to be the faster one"
    )
    deterministic: bool = Field(False, description="same seed, same weights on a GPU too (slower)")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", description="loader processes")
    validate_every: Positive = Field(10, description="epochs between whole-case validations")
    validation_cases: Positive | None = Field(
        None, description="at most this many cases in those; the last one takes all"
    )
    select: Literal["best", "last"] = Field("best", description="which checkpoint is reported and used for prediction")
    checkpoint_minutes: PositiveFloat = Field(5.0, description="minutes between checkpoints")
    checkpoint_steps: Positive | None = Field(None, description="steps between checkpoints, beside the minutes")
    max_minutes: PositiveFloat | None = Field(
        None, description="wall-clock limit of a run; its training ends and is reported then"
    )
    patience: Positive | None = Field(
        None,
        description="validations without a better mean Dice after which training ends, wherever the schedule then is; "
        "null: never",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="under torchrun: copies of the network (ddp, auto) or its parameters shared out (fsdp)"
    )
    choose: Literal["pairs", "single", "none"] = Field(
        "pairs",
        description="what a study decides on its cross-validation: configuration and postprocessing (single), averages "
        "of two configurations too (pairs), or nothing",
    )
    jobs: Positive | Literal["auto"] = Field(
        "auto", description="runs of a study that train at once; auto: one per GPU, one on a CPU"
    )
    init: str | None = Field(
        None, description="run or checkpoint whose weights to start from; heads that differ stay new"
    )
    tensorboard: bool = Field(False, description="write TensorBoard files too (extra 'tensorboard')")


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
    smallest_object: Annotated[int, Field(ge=0)] = Field(
        0, description="instances: objects of fewer voxels are dropped"
    )
    postprocess: list[PostprocessRule] = Field(
        [], description="steps on the label maps, in this order: `[{rule: keep_largest, classes: [liver]}]`"
    )


class EvaluateSection(Section):
    """What is measured on whole cases."""

    empty: Literal["skip", "one", "synapse", "worst"] = Field(
        "skip",
        description="a class absent from the reference: skip it; one: both empty counts as perfect; "
        "synapse: the published rule of the Synapse code; worst: as one, and infinite distances become the diagonal",
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
