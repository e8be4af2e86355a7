"""Batches for training: step n is the same batch in any process, from any start, with any number of workers.

A batch is a pure function of seed and step, so nothing has to be saved to resume. Workers are plain torch DataLoader
processes that are handed step numbers. For a GPU they only cut patches; the batch is augmented there.
"""

import math
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, product
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from unetkit.data.augment import Sample, augment, source_box
from unetkit.data.augment_draw import draw_sample
from unetkit.data.augment_table import Table, decide_table
from unetkit.data.cascade import require_previous
from unetkit.data.preprocess import Prepared
from unetkit.data.sampling import PatchSampler, SamplingRule, cut
from unetkit.data.share import Share
from unetkit.data.streams import AUGMENTATION, random_stream
from unetkit.errors import DataError, UnetkitError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

_SMALL_BATCH = 2**18
"""Values of a batch below which handing it over from another process costs more than making it."""

_MOST_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's samples: image float32 [B, C, *P], encoded label uint8 [B, L, *P], and the case of each.

    Where the loss asks for soft labels their codes lie below the label, [B, 2 L, *P].
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory."""
        return Batch(self.image.pin_memory(), self.label.pin_memory(), self.case_ids)


@dataclass(frozen=True, eq=False)
class _Cut:
    """Samples that wait for the device to augment them."""

    samples: tuple[Sample, ...]

    def pin_memory(self) -> "_Cut":
        return _Cut(tuple(sample.pinned() for sample in self.samples))


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker, in words; exceptions lose their shape on the way to the main process."""

    line: str
    trace: str


class LazyCases(Sequence[Prepared]):
    """Cases that are fetched whenever they are asked for; the last few are kept.

    `load` maps a case id to its `Prepared`. `ready`: fetching one takes no time, as its arrays are mapped. Other
    processes get the function and none of the cases.
    """

    def __init__(
        self, ids: Sequence[str], load: Callable[[str], Prepared], *, keep: int = 1, ready: bool = False
    ) -> None:
        self.ids = tuple(ids)
        self.load, self.keep, self.ready = load, keep, ready
        self._kept: dict[int, Prepared] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Prepared:  # type: ignore[override]
        if index >= len(self.ids):
            raise IndexError(index)
        # Taken out and put back, so that the first of the dict is the one that was not used for longest.
        found = self._kept.pop(index, None)
        if found is None:
            while len(self._kept) >= self.keep:
                # Before the next one is there: memory holds `keep` cases, not one more.
                del self._kept[next(iter(self._kept))]
            found = self.load(self.ids[index])
        self._kept[index] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}


class TrainingLoader:
    """Endless batches of patches from prepared cases, augmented as the recipe says.

    `cases`: a sequence of `Prepared`, or `LazyCases`. 2D images go through albumentations on the CPU, volumes
    and slices of volumes through torch on `device`.

    Of several processes that train together each makes its share of a batch, as one would make the whole. With `views`
    of 2 each patch is augmented twice, and all second views follow the first ones in the batch.

    Raises DataError without cases, RecipeError for an augmentation that cannot be.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        plan: Plan,
        recipe: Recipe,
        device: str | torch.device = "cpu",
        share: Share | None = None,
        views: int = 1,
    ) -> None:
        if not len(cases):
            raise DataError("no case to train on: the split's training part is empty; add cases or change data.split")
        require_previous(cases[0].previous is not None, cases[0].id, plan)
        train = recipe.train
        self.device = torch.device(device)
        share, count = share or Share(), train.batch_size or plan.batch_size
        self.sampler = PatchSampler(cases, _sampling_rule(plan, recipe, count * share.world))
        self.rows, self.views = share.rows(count), views
        table = decide_table(train.augment, plan, left_right_axis(cases[0], plan))
        self.table = replace(table, soft=cases[0].soft is not None)
        self.images = cases[0].data.ndim == 3
        self.ids = cases.ids if isinstance(cases, LazyCases) else tuple(case.id for case in cases)
        # Workers pay off where making a batch takes longer than sending it.
        values = count * len(plan.channels) * math.prod(plan.patch_size)
        small = values < _SMALL_BATCH and (not isinstance(cases, LazyCases) or cases.ready)
        self.workers = _worker_count(small, share.beside) if train.workers == "auto" else train.workers
        self._steps, self._accumulate = train.steps_per_epoch, train.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch: the recipe's number, or what one pass over the cases (or slices) takes."""
        return self._steps or self.sampler.batches_per_epoch // self._accumulate

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start_step` on, without end; closing the iterator ends the workers.

        Raises DataError, naming the case, if a case cannot be used, or a worker fails or dies.
        """
        # Shared memory [worker, (pid, step, index)]: still there when a worker was killed, to tell what it was at.
        places = torch.full((max(self.workers, 1), 3), -1).share_memory_()
        source = _started(
            DataLoader(
                _Steps(self, places),
                batch_size=None,
                sampler=count(start_step),
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_prepare_image_worker if self.images else None,
                generator=torch.Generator(),  # or torch would take its seed from the global generator
            )
        )
        while True:
            try:
                item = next(source)
            except RuntimeError as error:
                raise self._explained(error, places) or error from error
            if isinstance(item, _Failure):
                # The worker's traceback rides along as the cause, for those who look into it.
                raise DataError(item.line) from RuntimeError(item.trace)
            yield item if isinstance(item, Batch) else self._augmented(item)

    def _augmented(self, item: _Cut) -> Batch:
        image, label = augment(item.samples, self.table, self.device)
        return Batch(image, label, tuple(sample.case_id for sample in item.samples))

    def _explained(self, error: RuntimeError, places: Tensor) -> DataError | None:
        """Return the line for a worker that died, with the case it was at; None for any other error."""
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if found is None:
            return None
        dead = [int(pid) for pid in found[1].split(",")]
        # torch does not always name the right process; then every worker's case is suspect.
        rows = [row for row in places.tolist() if row[0] in dead] or places.tolist()
        names = {self.ids[self.sampler.choose(step, index)[0]] for _, step, index in rows if step >= 0}
        return DataError(
            f"a loader process died at case {', '.join(map(repr, sorted(names)))}, most likely because memory ran "
            f"out; use fewer workers than train.workers={self.workers} (0: none), a smaller batch or data.cache=none"
        )


class _Steps(Dataset):
    """Step number to batch (or to cut samples, if a GPU shall augment them); lives in the workers."""

    def __init__(self, loader: TrainingLoader, places: Tensor) -> None:
        self.sampler, self.table, self.ids, self.rows = loader.sampler, loader.table, loader.ids, loader.rows
        self.views = loader.views
        self.finish: Callable[[Sequence[Sample]], tuple[Tensor, Tensor]] | None = None
        if loader.images:
            self.finish = _image_augmenter(loader.table)
        elif loader.device.type == "cpu":
            self.finish = partial(augment, table=loader.table, device=loader.device)
        self.places = places

    def __getitem__(self, step: int) -> Batch | _Cut | _Failure:
        worker = get_worker_info()
        place = self.places[worker.id if worker else 0]
        try:
            with _one_thread():
                return self._made(step, place)
        except UnetkitError as error:
            case = self.ids[self.sampler.choose(step, int(place[2]))[0]]
            return _Failure(f"case '{case}': {error}; repair it or leave it out", traceback.format_exc())
        except Exception as error:
            case = self.ids[self.sampler.choose(step, int(place[2]))[0]]
            if worker is None:  # a bug: here its traceback survives
                error.add_note(f"while preparing case '{case}' for step {step}")
                raise
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            return _Failure(
                f"case '{case}' could not be prepared ({type(error).__name__}: {reason}); look at its files, "
                "or use train.workers=0 for the full traceback",
                traceback.format_exc(),
            )

    def _made(self, step: int, place: Tensor) -> Batch | _Cut:
        samples = []
        for view, index in product(range(self.views), self.rows):
            place[:] = torch.tensor((os.getpid(), step, index))
            samples.append(self._sample(step, index, view))
        if self.finish is None:
            return _Cut(tuple(samples))
        image, label = self.finish(samples)
        return Batch(image, label, tuple(sample.case_id for sample in samples))

    def _sample(self, step: int, index: int, view: int) -> Sample:
        rule = self.sampler.rule
        patch = self.sampler.draw(step, index)
        prepared = self.sampler.cases[patch.case]
        rng = random_stream(AUGMENTATION, rule.seed, step, index, *([view] if view else []))
        draw = draw_sample(self.table, len(rule.patch_size), len(prepared.data), rng)
        start, size, margin = source_box(draw, patch.start, rule.patch_size)
        image, label = cut(prepared, patch, start, size)
        return Sample(torch.from_numpy(image), torch.from_numpy(label), draw, margin, self.ids[patch.case])


def _started(loader: DataLoader) -> Iterator[Any]:
    """Start the workers, and let the death of one wait for the next batch.

    torch has a signal handler raise it wherever the main thread happens to be, the middle of a step included.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD)
    source = iter(loader)
    signal.signal(signal.SIGCHLD, handler)
    return source


def left_right_axis(case: Prepared, plan: Plan) -> int | None:
    """Return the patch axis along the patient's left-right (across an image's width), None if slices lie across it."""
    dims = case.data.ndim - 1
    if dims == 2:
        return 1
    # World axis 0 is left-right (RAS); slices of a volume lack the first prepared axis.
    axis = (plan.transpose.index(0) if plan.transpose else 0) - (dims - plan.dims)
    return axis if axis >= 0 else None


def _sampling_rule(plan: Plan, recipe: Recipe, batch_size: int) -> SamplingRule:
    train = recipe.train
    return SamplingRule(
        patch_size=plan.patch_size,
        batch_size=batch_size,
        seed=recipe.seed,
        oversample=train.oversample,
        balance=train.balance_classes,
        regions=plan.labels.regions,
        every=train.steps_per_epoch is None,
        accumulate=train.accumulate,
    )


def _worker_count(small: bool, beside: int) -> int:
    """Workers for one of the processes that train on this machine; none where they would only take turns with it."""
    # What this process may use, which in containers is less than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= beside
    return 0 if small or cores <= 2 else min(cores - 1, _MOST_WORKERS)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: how sums are split over threads shows in the last bit, and workers have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _image_augmenter(table: Table) -> Callable[[Sequence[Sample]], tuple[Tensor, Tensor]]:
    from unetkit.data.augment_image import ImageAugmenter  # albumentations is slow to import; volumes need none of it

    return ImageAugmenter(table)


def _prepare_image_worker(worker: int) -> None:
    """Keep OpenCV to one thread: its thread pool does not survive the fork."""
    import cv2

    cv2.setNumThreads(0)
