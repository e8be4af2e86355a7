"""What each network of the registry costs at one size of image: counted for all, timed where that is quick enough."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from unetkit.bench.operations import flops, kept_bytes, moved_bytes, thop_macs, trainable, without_content
from unetkit.bench.timing import PASSES, Timing, best_batch, time_network
from unetkit.engine.losses import build_loss
from unetkit.engine.precision import Format, choose_format
from unetkit.errors import ModelError, ShapeError, UnetkitError
from unetkit.infer.device import Compute, pick_compute
from unetkit.plan.memory import trace_step
from unetkit.recipe.training import LossSection
from unetkit.registry import catalog, create_model
from unetkit.types import Labels

REFERENCE = ("unet", {"variant": "u_bench"})
"""The network beside which others are timed: that of U-Bench, 34.5 M parameters, whose speed its anchors assume."""


@dataclass(frozen=True)
class Setting:
    """What costs are asked at: side lengths, channels, classes (with background), device, number format."""

    size: tuple[int, ...]
    channels: int = 3
    classes: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"

    @property
    def compute(self) -> Compute:
        """How the device computes."""
        return pick_compute(self.device, self.precision)

    @property
    def form(self) -> Format:
        """Number format of the passes."""
        return choose_format(self.precision, self.device)


@dataclass(frozen=True)
class CostRow:
    """One network's cost for one image of `size`, the next legal one where the model refuses the size asked for.

    `params_m` trainable, in millions; `gflops` of a forward pass by torch's counter and `gmacs` half of them, or those
    of thop where asked for; `moved_mb` that operators read and write in it at least; `activation_mb` of maps kept in
    training and `step_mb` of a whole training step at batch 1 (AdamW, fp32), all in 1e6 bytes; times in ms at batch 1,
    `per_second` at batch 1 and `most_per_second` at `best_batch`; `to_reference`: time over that of U-Bench's U-Net,
    measured beside it. None is not measured, `note` says why.
    """

    name: str
    family: str
    year: int
    size: tuple[int, ...]
    params_m: float | None = None
    gflops: float | None = None
    gmacs: float | None = None
    moved_mb: float | None = None
    activation_mb: float | None = None
    step_mb: float | None = None
    ms: float | None = None
    ms_p10: float | None = None
    ms_p90: float | None = None
    per_second: float | None = None
    to_reference: float | None = None
    best_batch: int | None = None
    most_per_second: float | None = None
    peak_mb: float | None = None
    joules: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self)


def cost_rows(
    names: Sequence[str],
    setting: Setting,
    *,
    seconds: float | None = None,
    thop: bool = False,
    throughput: bool = False,
) -> Iterator[CostRow]:
    """Yield the cost of each model that exists for so many dims.

    `seconds` is what timing a model may take, by its count and the reference's speed; None counts only. `thop` takes
    MACs by thop's rules, `throughput` looks for the best batch. A model that cannot be built is a row with its reason.
    """
    dims = len(setting.size)
    timer = None if seconds is None else Timer(setting, seconds, throughput)
    for name in names:
        if dims in catalog()[name].dims:
            yield cost_row(name, {}, setting, timer, thop)
            gc.collect()


def cost_row(
    name: str, options: dict[str, Any], setting: Setting, timer: Timer | None = None, thop: bool = False
) -> CostRow:
    """Return the cost of one model with options; without a timer it is counted only."""
    info = catalog()[name]
    row: dict[str, Any] = {"name": name, "family": info.family, "year": info.year}
    size = info.fitted(options).legal_size(setting.size)
    try:
        row |= _counted(name, options, size, setting, thop)
        if timer is not None:
            timed = timer.timed(name, options, size, row["gflops"])
            row |= {**timed, "note": "; ".join(filter(None, (row.get("note"), timed.get("note"))))}
    except (UnetkitError, RuntimeError) as error:
        row["note"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CostRow(**{"size": size, **row})


def build(name: str, options: dict[str, Any], size: Sequence[int], setting: Setting) -> nn.Module:
    """Build a network for the setting; a model whose steps follow a plan takes the size as its patch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values, which cost nothing
        return create_model(
            name, in_channels=setting.channels, num_classes=setting.classes, patch_size=tuple(size), **options
        )


def _counted(
    name: str, options: dict[str, Any], size: Sequence[int], setting: Setting, thop: bool
) -> dict[str, float | str]:
    network = without_content(lambda: build(name, options, size, setting))
    shape = (1, setting.channels, *size)
    operations = flops(network, shape)
    return {
        "params_m": trainable(network) / 1e6,
        "gflops": operations / 1e9,
        "gmacs": thop_macs(network, shape) / 1e9 if thop else operations / 2e9,
        "moved_mb": moved_bytes(network, shape) / 1e6,
        **_of_training(network, shape),
    }


def _of_training(network: nn.Module, shape: Sequence[int]) -> dict[str, float | str]:
    try:
        return {"activation_mb": kept_bytes(network, shape) / 1e6, "step_mb": _step_bytes(network, shape) / 1e6}
    except ValueError:  # batch norm has no spread to learn from where a single image ends in a single voxel
        return {"note": "no memory of training: of one image its batch norm has a single voxel left to learn from"}


def _step_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    classes = network(torch.empty(tuple(shape), device="meta"))
    finest = classes[0] if isinstance(classes, tuple) else classes
    names = tuple(f"c{n}" for n in range(1, finest.shape[1]))
    labels = Labels(names, tuple((n + 1,) for n in range(len(names))))
    with torch.device("meta"):
        loss = build_loss(LossSection(), labels)
    return trace_step(network.train(), loss, shape, (shape[0], 1, *shape[2:]), half=None, kept=2).memory


class Timer:
    """Times networks beside the reference, and leaves out those that would take too long."""

    def __init__(self, setting: Setting, seconds: float, throughput: bool) -> None:
        self.setting, self.seconds, self.throughput = setting, seconds, throughput
        name, options = REFERENCE
        size = catalog()[name].legal_size(setting.size)
        counted = without_content(lambda: build(name, options, size, setting))
        self.reference = self._time(build(name, options, size, setting), size)
        self.speed = flops(counted, (1, setting.channels, *size)) / 1e9 / self.reference.median
        """Billions of operations a second."""

    def timed(self, name: str, options: dict[str, Any], size: Sequence[int], gflops: float) -> dict[str, Any]:
        """Return the times of a model, or a note that it would take too long."""
        expected = gflops / self.speed * PASSES
        if expected > self.seconds:
            return {"note": f"not timed: {PASSES} passes would take about {expected:.2g} s"}
        network = build(name, options, size, self.setting)
        single = self._time(network, size)
        found: dict[str, Any] = {
            "ms": 1e3 * single.median,
            "ms_p10": 1e3 * single.p10,
            "ms_p90": 1e3 * single.p90,
            "per_second": single.images_per_second,
            "to_reference": single.median / self.reference.median,
            "peak_mb": None if single.peak_bytes is None else single.peak_bytes / 1e6,
            "joules": single.joules,
        }
        if self.throughput:
            best = best_batch(lambda batch: self._time(network, size, batch))
            found |= {"best_batch": best.batch, "most_per_second": best.images_per_second}
        return found

    def _time(self, network: nn.Module, size: Sequence[int], batch: int = 1) -> Timing:
        device = self.setting.device
        image = torch.randn((batch, self.setting.channels, *size), device=device)
        return time_network(network.to(device), image, self.setting.form, min(1.0, self.seconds))


def check_size(size: Sequence[int]) -> tuple[int, ...]:
    """Return side lengths of 2D or 3D images. Raises ShapeError for others."""
    if len(size) not in (2, 3) or min(size) < 1:
        raise ShapeError(f"size={list(size)}: give two or three side lengths, as size=[256,256] or size=[96,96,96]")
    return tuple(size)


def check_names(names: Sequence[str] | None, dims: int) -> list[str]:
    """Return models that exist in these dims, all of them for None. Raises ModelError for others, and for no name."""
    if names is not None and not names:
        raise ModelError("models=[]: names none; give names, as models=[unet], or drop it for all models")
    known = [name for name, info in catalog().items() if dims in info.dims]
    for name in names or ():
        if name not in known:
            raise ModelError(f"models={name}: there is no such model for {dims}D; `unetkit list models dims={dims}`")
    return known if names is None else list(names)
