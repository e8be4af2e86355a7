"""Sizes tried out on a device, by a measure whose memory is limited; times and memory put right after three steps."""

from dataclasses import replace

import pytest
import torch
from tiny_task import PLAN, build, small_recipe
from torch import nn

from unetkit.engine.estimate import StepEstimate
from unetkit.engine.expectation import MEASURED_AT, convolution_rate, foreseen, in_words
from unetkit.engine.fit import fit
from unetkit.engine.log import read_log
from unetkit.engine.probe import Probe, real_step, settle
from unetkit.errors import RecipeError
from unetkit.plan import Fingerprint, decide
from unetkit.plan.fingerprint import Intensity
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, model_info, register
from unetkit.types import Labels, TaskShape

CPU = torch.device("cpu")
MADE = Fingerprint(
    dims=3,
    channels=("T1",),
    labels=Labels(("organ",), ((1,),)),
    cases=tuple("abcdefgh"),
    shapes=((120, 100, 70),) * 8,
    cropped=((120, 100, 70),) * 8,
    spacings=((1.0, 1.0, 1.0),) * 8,
    placed=True,
    intensities=(Intensity(0, 9, 4, 2, 4),),
    dtypes={"int16": 8},
    voxels={"organ": 10},
)


class Device:
    """Takes memory in proportion to batch and patch, and has so much of it; counts the steps it was given."""

    def __init__(self, gigabytes_a_sample: float, memory: float = 100.0) -> None:
        self.a_sample, self.memory, self.steps = gigabytes_a_sample, memory, 0

    def __call__(self, plan) -> float:
        self.steps += 1
        taken = self.a_sample * plan.batch_size * plan.patch_size[0] / 16
        if taken > self.memory:
            raise torch.OutOfMemoryError("no room")
        return taken


def planned(batch, side=16, expected=8.0):
    return replace(PLAN, batch_size=batch, patch_size=(side, side), expected={"memory_gb": expected})


def test_a_plan_that_fits_is_kept_with_what_was_measured():
    found = Probe(Device(0.5), 8.0).corrected(planned(12), fixed_batch=False)
    assert (found.batch_size, found.expected["memory_gb"]) == (12, 6.0)
    assert "a real step of 12 took 6 GB" in found.reasons["batch_size"]


@pytest.mark.parametrize("memory", [100.0, 7.0])
def test_the_largest_batch_within_target_and_device_is_found_by_halving(memory):
    device = Device(0.5, memory)
    found = Probe(device, 8.0).corrected(planned(50), fixed_batch=False)
    assert found.batch_size == (16 if memory > 8 else 14)
    assert found.expected["memory_gb"] == 0.5 * found.batch_size
    assert device.steps <= 7


def test_a_batch_asked_for_is_not_changed():
    assert Probe(Device(0.5), 8.0).corrected(planned(50), fixed_batch=True) is None


def test_a_smaller_patch_is_planned_where_no_batch_fits():
    asked = []

    def decide(target):
        asked.append(target)
        # an estimate at half of what is true: 0.25 GB a voxel of the side
        return planned(2, side=int(16 * target / 2), expected=target)

    found = settle(decide, Probe(Device(2.0), 8.0), fixed_batch=False)
    assert asked[0] == 8.0
    assert asked == sorted(asked, reverse=True)
    assert found.patch_size[0] < 64
    assert found.expected["memory_gb"] <= 8.0


def test_a_device_that_is_full_is_named():
    with pytest.raises(RecipeError, match=r"plan.memory_gb=8: no step fits, down to patches of \[16, 16\]"):
        settle(lambda target: planned(2, expected=target), Probe(Device(1.0, memory=0.5), 8.0), fixed_batch=False)


def unet_recipe(**train) -> Recipe:
    return Recipe.model_validate({"model": {"name": "unet", "widths": [4, 8]}, "train": {"precision": "fp32", **train}})


def test_what_the_optimiser_keeps_counts():
    taken = {}
    for name, train in {
        "sgd": {},
        "adamw": {"optimizer": {"name": "adamw"}},
        "plain": {"optimizer": {"momentum": 0.0}},
        "average": {"ema": 0.99},
    }.items():
        taken[name] = StepEstimate(unet_recipe(**train), CPU).cost(PLAN).memory
    one = taken["sgd"] - taken["plain"]
    assert one > 0
    assert taken["adamw"] - taken["sgd"] == taken["average"] - taken["sgd"] == one


def test_a_step_is_counted_once_for_each_plan():
    estimate = StepEstimate(unet_recipe(), CPU)
    assert estimate.cost(PLAN) is estimate.cost(replace(PLAN, reasons={"x": "y"}))
    assert estimate(replace(PLAN, batch_size=8)) > estimate(PLAN)


@pytest.mark.parametrize(
    ("name", "options", "sides"),
    [("unetr", {"hidden_size": 96, "mlp_dim": 192, "num_heads": 4}, 16), ("unetpp", {"widths": [4] * 6}, 32)],
)
def test_a_model_gets_sizes_that_it_takes_and_that_fit(name, options, sides):
    tree = {"model": {"name": name, **options}, "plan": {"memory_gb": 2.0}, "train": {"precision": "fp32"}}
    wanted = Recipe.model_validate(tree)
    plan = decide(MADE, wanted, model_info(name), StepEstimate(wanted, CPU))
    assert all(n % sides == 0 for n in plan.patch_size)
    assert 1.0 < plan.expected["memory_gb"] <= 2.0
    assert f"{plan.expected['memory_gb']:.3g} GB of 2" in plan.reasons["batch_size"]


def test_a_model_that_reads_its_values_needs_sizes():
    @register(ModelInfo(title="Reads", family="cnn", year=2026, paper="-", dims=(2, 3)))
    def reading(task: TaskShape) -> nn.Module:
        class Reading(nn.Conv3d):
            def forward(self, x):
                return super().forward(x) if x.sum().item() < 1 else x

        return Reading(task.in_channels, task.num_classes, 1)

    wanted = Recipe.model_validate({"model": {"name": "reading"}})
    with pytest.raises(RecipeError, match=r"memory of reading cannot be counted .* give data.patch_size and"):
        decide(MADE, wanted, model_info("reading"), StepEstimate(wanted, CPU))


def test_memory_and_time_are_foreseen():
    plan = foreseen(PLAN, unet_recipe(), CPU)
    assert set(plan.expected) == {"memory_gb", "seconds_per_step"}
    assert convolution_rate(2, "fp32", CPU) > 1e8
    assert in_words({"memory_gb": 6.14, "seconds_per_step": 0.25}, 200, 100) == (
        "6.14 GB, 0.25 s a step, 50 s an epoch, 83.3 min in all"
    )


def test_three_steps_correct_what_was_foreseen_once(make_job):
    recipe = small_recipe()
    job = replace(make_job(recipe), expected={"memory_gb": 1.0, "seconds_per_step": 9.0})
    fit(job, build(recipe))
    fit(job, build(recipe))  # a run that is gone on with says it no second time
    found = [r for r in read_log(job.folder / "log.jsonl") if "measured" in r]
    assert [r["step"] for r in found] == [MEASURED_AT]
    assert found[0]["expected"] == {"memory_gb": 1.0, "seconds_per_step": 9.0}
    assert 0 < found[0]["measured"]["seconds_per_step"] < 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_step_on_a_gpu_takes_about_what_was_estimated():
    device = torch.device("cuda", 0)
    recipe = Recipe.model_validate({"model": {"name": "plain_unet"}, "train": {"precision": "bf16"}})
    plan = replace(PLAN, patch_size=(512, 512), batch_size=12)
    assert real_step(plan, recipe, device) == pytest.approx(StepEstimate(recipe, device)(plan), rel=0.3)
    with pytest.raises(torch.OutOfMemoryError):
        real_step(replace(plan, batch_size=10**6), recipe, device)
    assert torch.cuda.memory_reserved(device) < 1e8
