"""The keys of a recipe's section `train`: optimiser, schedule, loss, augmentation, pretraining and the loop itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unetkit.recipe.section import Fraction, NonNegative, Positive, PositiveFloat, Section, Size


class OptimizerSection(Section):
    """The optimiser."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd with momentum, or adamw")
    lr: PositiveFloat = Field(0.01, description="learning rate after the warm-up, before any decay")
    encoder_scale: PositiveFloat = Field(
        1.0, description="the encoder's learning rate in multiples of the others', of networks that have one"
    )
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
        "contours",
        "queries",
    ] = Field(
        "auto",
        description="auto: dice_bce for regions, distance for instances (queries for a network of queries), "
        "contours for a network of contours, else dice_ce; focal_l1_jaccard: SAUNA's sum of the two",
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
    point_error: Literal["mse", "l1"] = Field(
        "mse", description="contours: squared or absolute error of coordinates, in shares of the image's sides"
    )
    kld_weight: NonNegative = Field(
        1e-5, description="contours: weight of the divergence of a latent vector from the normal distribution"
    )
    mask_weight: NonNegative = Field(5.0, description="queries: weight of the BCE of masks, and as a cost of matching")
    mask_dice_weight: NonNegative = Field(2.0, description="queries: weight of the Dice of masks, likewise")
    no_object_weight: NonNegative = Field(
        0.1, description="queries: weight of a query without an object in the cross-entropy of classes"
    )
    points: Positive = Field(
        12544, description="queries: points at which masks are compared; a patch of fewer voxels is compared in all"
    )


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

    epochs: Positive | None = Field(
        100,
        description="length of the training; the learning rate follows it. null: as long as max_minutes, which the "
        "learning rate then follows",
    )
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
    validations: Positive | None = Field(
        None, description="so many whole-case validations at equal shares of the training, instead of validate_every"
    )
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

    @model_validator(mode="after")
    def _ends(self) -> TrainSection:
        if self.epochs is None and self.max_minutes is None:
            raise ValueError("epochs=null needs max_minutes=NUMBER, or the training would never end")
        return self
