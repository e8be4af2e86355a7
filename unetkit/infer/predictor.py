"""From an image of any kind to its segmentation, with nothing but a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unetkit.blocks.inference import InstanceNorm, optimise_for_inference
from unetkit.checkpoint import load_checkpoint, load_weights
from unetkit.data.cascade import StageMasks, network_input, open_masks, require_previous
from unetkit.data.instances import FULL
from unetkit.data.labels import decode
from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.restore import Band, nearest_labels
from unetkit.errors import CheckpointError, RecipeError
from unetkit.infer.device import Compute, check_torch, lay_out, pick_compute, pick_device
from unetkit.infer.forward import WindowSettings
from unetkit.infer.inputs import Image, check_image, image_dims, open_image, open_previous
from unetkit.infer.instances import check_instance_settings, foreground, separated
from unetkit.infer.network import MeanNetwork, StageInput, build_network, pruned
from unetkit.infer.postprocess import check_rules, postprocess
from unetkit.infer.queries import cleaned, encoded_objects, find_objects, has_queries, numbered
from unetkit.infer.segmenter import Segmentation
from unetkit.infer.shortage import REMEDY, explained_shortage, free_memory
from unetkit.infer.slabs import choose_layout, segment_slabs
from unetkit.infer.sliding import Box, window_slabs
from unetkit.plan.plan import Plan
from unetkit.recipe import InferSection, Recipe, explain_faults
from unetkit.types import Volume

_CPU_PAIR = 2
"""torch computes fp32 3D convolutions of a single small window without oneDNN, up to four times slower than of two."""
# Of the memory that is free: the rest is for the network, and for what others take meanwhile.
_SUMS_SHARE = 0.4


class Predictor:
    """A trained network with all that is needed to use it.

    Images are paths, (array, spacing), nibabel images, Volumes, or arrays where the network is for 2D images;
    results are of the same kind (for a path, a Volume) and in the image's own geometry.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        settings: InferSection,
        compute: Compute,
        masks: StageMasks | None = None,
    ) -> None:
        """Predict with a network that is on the compute's device already.

        `masks`: for a cascade, where cases find the label maps of the earlier stage by their id.
        Raises RecipeError if the settings ask for mirroring where training had none, name unknown classes, or ask
        for fewer columns of a network that has none, and if queries of several networks, or in volumes, are asked for.
        """
        if settings.mirror and not plan.mirror_axes:
            raise RecipeError("infer.mirror=true: the network was trained without mirroring; drop it")
        check_rules(settings.postprocess, plan.labels)
        self.queries = has_queries(network, plan)
        check_instance_settings(settings, plan.labels, self.queries)
        network = pruned(network, settings.depth)
        self.network, self.plan, self.settings, self.compute = network, plan, settings, compute
        self.masks = masks
        self._entrance = StageInput(network, plan) if plan.previous else network
        self.windows = WindowSettings(
            settings.overlap,
            settings.window_batch,
            plan.mirror_axes if settings.mirror else (),
            compute.dtype,
            compute.channels_last and not _copies_to_contiguous(network),
        )

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", *, previous: str | Path | None = None, **overrides: Any
    ) -> Predictor:
        """Load a run folder (its best checkpoint) or a checkpoint file.

        `device` is auto, cpu, cuda or cuda:N; `overrides` are keys of a recipe's `infer` section. `previous` is for a
        cascade: the folder with the earlier stage's label maps, named by case.
        Raises CheckpointError for what cannot be loaded, RecipeError for a device or override that is not possible.
        """
        return cls.from_folds([path], device, previous=previous, **overrides)

    @classmethod
    def from_folds(
        cls,
        paths: Sequence[str | Path],
        device: str = "auto",
        *,
        previous: str | Path | None = None,
        **overrides: Any,
    ) -> Predictor:
        """Load runs of one plan, the folds of a configuration, whose logits are averaged; see `from_checkpoint`.

        Raises RecipeError besides if their plans differ.
        """
        check_torch()
        found = [load_checkpoint(path) for path in paths]
        recipe, plan = found[0].recipe, found[0].plan
        for path, checkpoint in zip(paths, found, strict=True):
            if checkpoint.recipe.task == "pretrain":
                raise CheckpointError(
                    f"{path}: a pretraining, which knows no classes; train from it: train.init={path}"
                )
            if _sizes(checkpoint.plan) != _sizes(plan):
                raise RecipeError(f"{paths[0]} and {path} were trained by different plans; give folds of one study")
        settings = _overridden(recipe.infer, overrides)
        compute = pick_compute(pick_device(device), recipe.train.precision)
        networks = []
        for path, checkpoint in zip(paths, found, strict=True):
            network = build_network(checkpoint.recipe, plan, start=False)
            load_weights(network, checkpoint.best_weights, path)
            networks.append(_ready(network, compute, plan.dims))
        masks = None if previous is None else open_masks(previous, plan)
        return cls(networks[0] if len(networks) == 1 else MeanNetwork(networks), plan, settings, compute, masks)

    @property
    def volumes(self) -> bool:
        """Whether images are volumes, not 2D pictures."""
        return image_dims(self.plan) == 3

    def predict(self, image: Image, *, previous: Image | None = None) -> Any:
        """Return the label map in the values of the training labels (uint8 or uint16); later regions cover earlier.

        `previous`: for a cascade, the label map of the earlier stage, in those values too, of any kind as the image.
        Raises DataError or ShapeError for an image that the network cannot be used on.
        """
        volume, wrap = open_image(image, self.plan)
        return wrap(decode(self.encoded(self._opened(volume, previous)), self.plan.labels))

    def probabilities(self, image: Image, *, previous: Image | None = None) -> Any:
        """Return the probability of each output, float32 [K, *S]: background and classes, or one per region.

        In nibabel images the outputs lie along the last axis. Raises DataError or ShapeError as `predict`.
        """
        volume, wrap = open_image(image, self.plan)
        chances = self.segment(self._opened(volume, previous), probabilities=True).chances
        assert chances is not None  # they were asked for
        return wrap(chances)

    def prepare(self, volume: Volume, case_id: str) -> Prepared:
        """Return a case as the network sees it: preprocessing alone, from any thread.

        Raises DataError or ShapeError for an image that the network cannot be used on, DataError if a cascade finds no
        label map of the earlier stage for the case.
        """
        check_image(volume, self.plan)
        return self._prepared(volume, case_id, None if self.masks is None else self.masks.read(case_id, volume))

    def encoded(self, prepared: Prepared) -> np.ndarray:
        """Return encoded labels uint8 [L, *S] on the grid of the case's own image: class indices, or 0/1 a region."""
        return self.segment(prepared).encoded

    @torch.no_grad()  # not inference_mode: a network in training keeps what it caches here
    def segment(self, prepared: Prepared, *, probabilities: bool = False) -> Segmentation:
        """Return the segmentation of a prepared case, made slab by slab; on the device as far as it has room there.

        Raises DataError if the memory does not suffice even so.
        """
        with explained_shortage(prepared.id, REMEDY), _evaluating(self.network):
            image = network_input(prepared, self.plan)
            if self.queries:
                return self._from_queries(image, prepared, probabilities)
            return self._from_logits(image, prepared, probabilities)

    def _from_queries(self, image: Tensor, prepared: Prepared, probabilities: bool) -> Segmentation:
        """Return the objects that queries find; of the chances the foreground is the network's, the distance theirs."""
        objects = find_objects(self.network, image, self.plan.patch_size, self.settings, self.windows)
        numbers, scores = numbered(objects, image.shape[1:])
        numbers = nearest_labels(numbers[None], prepared.geometry)[0]
        inside = (numbers > 0).astype(np.uint8)[None]
        inside = postprocess(inside, self.settings.postprocess, self.plan.labels, prepared.geometry.grid)
        numbers, scores = cleaned(numbers, inside[0] == 1, scores, self.settings.smallest_object)
        encoded = encoded_objects(numbers, prepared.geometry.input_spacing, f"case {prepared.id}")
        chances = self._segmented(image, prepared, True).chances if probabilities else None
        if chances is not None:
            # of the two logits one is 0, the background's
            chances = np.stack((chances[1], encoded[1].astype(np.float32) / FULL))
        return Segmentation(encoded, chances, scores)

    def _from_logits(self, image: Tensor, prepared: Prepared, probabilities: bool) -> Segmentation:
        found: Segmentation | None = None
        objects = self.plan.labels.instances
        wanted = probabilities or objects
        with suppress(torch.OutOfMemoryError):
            found = self._segmented(image.to(self.compute.device), prepared, wanted)
        # The second try comes after the handler, whose traceback holds the tensors.
        if found is None:
            torch.cuda.empty_cache()
            # Sums in the host's memory, only windows on the GPU.
            found = self._segmented(image, prepared, wanted)
        encoded, chances = found.encoded, found.chances
        if objects and chances is not None:
            encoded = foreground(chances, self.settings)
        encoded = postprocess(encoded, self.settings.postprocess, self.plan.labels, prepared.geometry.grid)
        if objects and chances is not None:
            encoded = separated(encoded, chances[1], self.settings, f"case {prepared.id}")
        return Segmentation(encoded, chances if probabilities else None)

    def slabs(self, image: Tensor, axis: int = 0, band: Band | None = None) -> Iterator[Tensor]:
        """Yield the logits of a prepared image [C, *P] by rows of `axis`, in order, as `window_slabs` does."""
        settings = replace(self.windows, window_batch=self._batch_for(image.ndim - 1))
        region = None if band is None else _region(image, band)
        outputs = self.plan.labels.num_outputs
        return window_slabs(self._entrance, image, self.plan.patch_size, outputs, settings, axis=axis, region=region)

    def _segmented(self, image: Tensor, prepared: Prepared, probabilities: bool) -> Segmentation:
        dims = image.ndim - 1
        window = (1,) * (dims - self.plan.dims) + self.plan.patch_size
        held = 4 * self.plan.labels.num_outputs * (self._batch_for(dims) if dims != self.plan.dims else 1)
        layout = choose_layout(prepared.geometry, window, held, _SUMS_SHARE * free_memory(image.device))
        return segment_slabs(
            lambda axis, band: self.slabs(image, axis, band),
            layout,
            prepared.geometry,
            self.plan,
            nearest=self.settings.restore == "labels",
            probabilities=probabilities,
            beside=image.device.type != self.compute.device.type,
        )

    def _opened(self, volume: Volume, previous: Image | None) -> Prepared:
        name = volume.source or "image"
        found = None if previous is None else open_previous(previous, volume, self.plan, name)
        return self._prepared(volume, name, found)

    def _prepared(self, volume: Volume, case_id: str, previous: Volume | None) -> Prepared:
        require_previous(previous is not None, case_id, self.plan)
        with explained_shortage(case_id, REMEDY):
            return preprocess(volume, None, self.plan, case_id=case_id, previous=previous)

    def _batch_for(self, dims: int) -> int:
        """Return windows per forward pass over images of so many axes: as asked, or more where that is free."""
        least = 1
        if dims != self.plan.dims or self.compute.device.type == "cuda":
            least = self.plan.batch_size  # training had room for as many; slices alone leave a CPU idle
        elif dims == 3 and self.compute == Compute(torch.device("cpu")):
            least = _CPU_PAIR
        return max(self.settings.window_batch, least)


def _sizes(plan: Plan) -> Plan:
    """Return what has to be the same for networks to see a case alike; expected times and reasons need not."""
    return replace(plan, reasons={}, expected={})


def _overridden(settings: InferSection, overrides: dict[str, Any]) -> InferSection:
    try:
        # Within a recipe, so that faults name their keys as everywhere else: infer.overlap, not overlap.
        return Recipe.model_validate({"infer": {**settings.model_dump(), **overrides}}).infer
    except ValidationError as error:
        faults = explain_faults(error, Recipe)
        raise RecipeError("; ".join(faults), faults) from error


def _ready(network: nn.Module, compute: Compute, dims: int) -> nn.Module:
    """Bring a network into the form that predicts fastest on a device; its outputs stay the same."""
    network = optimise_for_inference(network.to(compute.device).requires_grad_(False), compute.device)
    if compute.channels_last and not _copies_to_contiguous(network):
        lay_out(network, torch.channels_last if dims == 2 else torch.channels_last_3d, dims)
    return network


def _copies_to_contiguous(network: nn.Module) -> bool:
    """Instance norm brings its input back to the contiguous layout, so that channels_last costs two copies a layer."""
    return any(isinstance(m, InstanceNorm) for m in network.modules())


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and afterwards back into the one it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _region(image: Tensor, band: Band) -> Box:
    box = [slice(0, n) for n in image.shape[1:]]
    box[band.axis] = band.region
    return tuple(box)
