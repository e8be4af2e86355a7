"""Batches that no worker count and no restart can change, and workers that fail."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from unetkit.data.loader import Batch, LazyCases, TrainingLoader, left_right_axis
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.errors import DataError
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.schema import Recipe
from unetkit.types import Labels, Volume

PLAN = Plan(
    patch_size=(12, 12, 12),
    batch_size=2,
    channels=("MR",),
    labels=Labels(("a", "b"), ((1,), (2,))),
    normalization=(Normalization("zscore"),),
    transpose=(0, 1, 2),
)
IMAGES = replace(
    PLAN,
    patch_size=(24, 32),
    channels=("R", "G", "B"),
    normalization=(Normalization("rgb"),) * 3,
    transpose=(),
)


def make_cases(plan: Plan, shape: tuple[int, ...], number: int = 3) -> list[Prepared]:
    rng = np.random.default_rng(0)
    cases = []
    for index in range(number):
        image = rng.integers(0, 255, (len(plan.channels), *shape)).astype(np.uint8)
        label = (image[:1] // 100).astype(np.uint8)
        volumes = (Volume(a, (1.0,) * len(shape)) for a in (image, label))
        cases.append(preprocess(*volumes, plan, case_id=f"case{index}"))
    return cases


def make_recipe(workers: int, **train: object) -> Recipe:
    return Recipe.model_validate({"seed": 3, "train": {"workers": workers, "steps_per_epoch": 5, **train}})


def take(loader: TrainingLoader, start: int, number: int) -> list[Batch]:
    source = loader.batches(start)
    batches = list(islice(source, number))
    source.close()
    return batches


KINDS = {
    "volumes": (PLAN, (18, 17, 16), {}),
    "slices": (replace(PLAN, patch_size=(16, 16)), (9, 16, 20), {"steps_per_epoch": None}),
    "images": (IMAGES, (40, 50), {"augment": {"preset": "nnunet", "elastic_p": 0.5, "elastic_magnitude": 2.0}}),
    "synapse": (replace(PLAN, patch_size=(16, 16)), (9, 16, 16), {"augment": {"preset": "synapse"}}),
    "synapse_images": (replace(IMAGES, patch_size=(32, 32)), (40, 50), {"augment": {"preset": "synapse"}}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_workers_and_start_change_no_bit(kind: str) -> None:
    plan, shape, train = KINDS[kind]
    cases = make_cases(plan, shape)
    reference = take(TrainingLoader(cases, plan, make_recipe(0, **train)), 0, 8)
    for batch in reference:
        assert batch.image.shape == (2, len(plan.channels), *plan.patch_size)
        assert batch.image.dtype == torch.float32
        assert torch.isfinite(batch.image).all()
        assert batch.label.shape == (2, 1, *plan.patch_size)
        assert batch.label.dtype == torch.uint8
        assert len(batch.case_ids) == 2
    for workers, start in ((0, 3), (1, 2), (2, 5)):
        again = take(TrainingLoader(cases, plan, make_recipe(workers, **train)), start, 3)
        for ours, theirs in zip(again, reference[start:], strict=False):
            assert torch.equal(ours.image, theirs.image)
            assert torch.equal(ours.label, theirs.label)
            assert ours.case_ids == theirs.case_ids
    assert not torch.equal(reference[0].image, reference[1].image)


def test_the_number_of_threads_changes_no_bit() -> None:
    cases = make_cases(PLAN, (40, 44, 48))
    plan = replace(PLAN, patch_size=(37, 41, 43))
    first = take(TrainingLoader(cases, plan, make_recipe(0)), 0, 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        second = take(TrainingLoader(cases, plan, make_recipe(0)), 0, 6)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_loading_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(TrainingLoader(make_cases(IMAGES, (40, 50)), IMAGES, make_recipe(0)), 0, 4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_lazy_cases_give_the_same_batches_as_cases_in_memory() -> None:
    cases = {case.id: case for case in make_cases(PLAN, (18, 17, 16))}
    lazy = LazyCases(list(cases), cases.__getitem__)
    expected = take(TrainingLoader(list(cases.values()), PLAN, make_recipe(0)), 0, 4)
    for ours, theirs in zip(take(TrainingLoader(lazy, PLAN, make_recipe(1)), 0, 4), expected, strict=True):
        assert torch.equal(ours.image, theirs.image)


def test_steps_of_an_epoch() -> None:
    cases = make_cases(PLAN, (18, 17, 16), 5)
    assert TrainingLoader(cases, PLAN, make_recipe(0)).steps_per_epoch == 5
    assert TrainingLoader(cases, PLAN, make_recipe(0, steps_per_epoch=None)).steps_per_epoch == 3
    assert TrainingLoader(cases, PLAN, make_recipe(0, steps_per_epoch=None, accumulate=2)).steps_per_epoch == 2
    slices = replace(PLAN, patch_size=(12, 12))
    loader = TrainingLoader(cases, slices, make_recipe(0, steps_per_epoch=None, batch_size=4))
    assert loader.steps_per_epoch == -(-5 * 18 // 4)
    assert next(loader.batches()).image.shape == (4, 1, 12, 12)


def test_left_right_axis_of_volumes_slices_and_images() -> None:
    volume, image = make_cases(PLAN, (8, 8, 8), 1)[0], make_cases(IMAGES, (8, 8), 1)[0]
    assert left_right_axis(volume, replace(PLAN, transpose=(2, 1, 0))) == 2
    assert left_right_axis(volume, replace(PLAN, transpose=(2, 0, 1), patch_size=(8, 8))) == 0
    assert left_right_axis(volume, replace(PLAN, transpose=(0, 1, 2), patch_size=(8, 8))) is None
    assert left_right_axis(image, IMAGES) == 1


def test_values_outside_the_unit_range_survive_image_augmentation() -> None:
    plan = replace(IMAGES, normalization=(Normalization("zscore"),) * 3)
    train = {"augment": {"preset": "nnunet", "mirror": False, "rotation_p": 0.0, "scale_p": 0.0}}
    batches = take(TrainingLoader(make_cases(plan, (40, 50)), plan, make_recipe(0, **train)), 0, 10)
    image = torch.cat([batch.image for batch in batches])
    assert image.min() < -1
    assert image.max() > 1
    assert abs(float(image.mean())) < 0.3


class Faulty(Sequence):
    """Cases of which one cannot be read inside a worker process."""

    def __init__(self, cases: list[Prepared], end_process: bool) -> None:
        self.cases, self.end_process = cases, end_process

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Prepared:
        if index == 1 and get_worker_info():
            if self.end_process:
                time.sleep(0.5)  # let the batches before this one get through
                os._exit(3)
            raise OSError("stale file handle")
        return self.cases[index]


@pytest.mark.parametrize(
    ("workers", "end_process", "message"),
    [
        (2, False, r"case 'case1' could not be prepared \(OSError: stale file handle\).*train.workers=0"),
        (1, True, r"a loader process died at case 'case1'.*use fewer workers than train.workers="),
    ],
)
def test_a_failing_worker_names_the_case_and_the_remedy(workers: int, end_process: bool, message: str) -> None:
    loader = TrainingLoader(Faulty(make_cases(PLAN, (18, 17, 16)), end_process), PLAN, make_recipe(workers))
    start = next(step for step in count() if all(loader.sampler.choose(step, index)[0] != 1 for index in range(2)))
    source = loader.batches(start)
    next(source)
    time.sleep(1)  # whatever happens to a worker meanwhile is told with the next batch, not in the midst of a step
    with pytest.raises(DataError, match=message) as caught:
        list(source)
    assert "\n" not in str(caught.value)


def test_a_case_without_label_is_named() -> None:
    cases = [replace(case, label=None) for case in make_cases(PLAN, (18, 17, 16))]
    with pytest.raises(DataError, match=r"case 'case\d' has no label"):
        take(TrainingLoader(cases, PLAN, make_recipe(0)), 0, 1)


def test_no_cases_is_an_error_of_one_line() -> None:
    with pytest.raises(DataError, match="no case to train on"):
        TrainingLoader([], PLAN, make_recipe(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_batches_made_on_a_gpu_repeat() -> None:
    cases = make_cases(PLAN, (18, 17, 16))
    train = {"augment": {"preset": "nnunet", "elastic_p": 0.5, "elastic_magnitude": 1.0}}
    first, second = (
        take(TrainingLoader(cases, PLAN, make_recipe(workers, **train), "cuda"), 0, 6) for workers in (0, 2)
    )
    on_cpu = take(TrainingLoader(cases, PLAN, make_recipe(0, **train)), 0, 6)
    for ours, again, cpu in zip(first, second, on_cpu, strict=True):
        assert ours.image.is_cuda
        assert torch.equal(ours.image, again.image)
        assert (ours.label.cpu() == cpu.label).float().mean() > 0.99
