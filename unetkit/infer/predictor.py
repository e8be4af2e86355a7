"""From an image of any kind to its segmentation, with nothing but a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unetkit.blocks.inference import InstanceNorm, optimise_for_inference
from unetkit.checkpoint import load_checkpoint, load_weights
from unetkit.data.labels import decode
from unetkit.data.preprocess import (
    Prepared,
    labels_from_logits,
    preprocess,
    restore_argmax,
    restore_labels,
    restore_logits,
)
from unetkit.errors import RecipeError
from unetkit.infer.device import Compute, check_torch, pick_compute, pick_device
from unetkit.infer.inputs import Image, image_dims, open_image
from unetkit.infer.network import build_network
from unetkit.infer.postprocess import keep_largest
from unetkit.infer.sliding import WindowSettings, sliding_window
from unetkit.plan.plan import Plan
from unetkit.recipe import InferSection, Recipe, explain_faults

Result = TypeVar("Result")

_CPU_PAIR = 2
"""torch computes fp32 3D convolutions of a single small window without oneDNN, up to four times slower than of two."""


class Predictor:
    """A trained network with all that is needed to use it.

    Images are paths, (array, spacing), nibabel images, Volumes, or arrays where the network is for 2D images;
    results are of the same kind (for a path, a Volume) and in the image's own geometry.
    """

    def __init__(self, network: nn.Module, plan: Plan, settings: InferSection, compute: Compute) -> None:
        """Predict with a network that is on the compute's device already.

        Raises RecipeError if the settings ask for mirroring where training had none.
        """
        if settings.mirror and not plan.mirror_axes:
            raise RecipeError("infer.mirror=true: the network was trained without mirroring; drop it")
        self.network, self.plan, self.settings, self.compute = network, plan, settings, compute
        self.windows = WindowSettings(
            settings.overlap,
            settings.window_batch,
            plan.mirror_axes if settings.mirror else (),
            compute.dtype,
            compute.channels_last and not _copies_to_contiguous(network),
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto", **overrides: Any) -> Predictor:
        """Load a run folder (its best checkpoint) or a checkpoint file.

        `device` is auto, cpu, cuda or cuda:N; `overrides` are keys of a recipe's `infer` section.
        Raises CheckpointError for what cannot be loaded, RecipeError for a device or override that is not possible.
        """
        check_torch()
        checkpoint = load_checkpoint(path)
        settings = _overridden(checkpoint.recipe.infer, overrides)
        compute = pick_compute(pick_device(device), checkpoint.recipe.train.precision)
        network = build_network(checkpoint.recipe, checkpoint.plan, start=False)
        load_weights(network, checkpoint.best_weights, path)
        return cls(_ready(network, compute, checkpoint.plan.dims), checkpoint.plan, settings, compute)

    @property
    def volumes(self) -> bool:
        """Whether images are volumes, not 2D pictures."""
        return image_dims(self.plan) == 3

    def predict(self, image: Image) -> Any:
        """Return the label map in the values of the training labels (uint8 or uint16); later regions cover earlier.

        Raises DataError or ShapeError for an image that the network cannot be used on.
        """
        volume, wrap = open_image(image, self.plan)
        return wrap(decode(self.encoded(preprocess(volume, None, self.plan)), self.plan.labels))

    def probabilities(self, image: Image) -> Any:
        """Return the probability of each output, float32 [K, *S]: background and classes, or one per region.

        In nibabel images the outputs lie along the last axis. Raises DataError or ShapeError as `predict`.
        """
        volume, wrap = open_image(image, self.plan)
        prepared = preprocess(volume, None, self.plan)
        return wrap(self.chances(self.logits(prepared), prepared))

    def encoded(self, prepared: Prepared) -> np.ndarray:
        """Return encoded labels uint8 [L, *S] on the grid of the case's own image: class indices, or 0/1 a region."""
        return self.decide(self.logits(prepared), prepared)

    @torch.no_grad()  # not inference_mode: a network in training keeps what it caches here
    def logits(self, prepared: Prepared) -> Tensor:
        """Return the network's output, fp32 [K, *P], on the prepared grid; on the device if it has room there."""
        training = self.network.training
        self.network.eval()
        try:
            image = torch.from_numpy(prepared.data)
            try:
                return self._windowed(image.to(self.compute.device))
            except torch.cuda.OutOfMemoryError:
                # The second try comes after the handler: while that runs, the error's traceback holds the tensors.
                torch.cuda.empty_cache()
            return self._windowed(image)  # sums in the host's memory, only windows on the GPU
        except torch.cuda.OutOfMemoryError as error:
            batch = self._batch_for(prepared.data.ndim - 1)
            raise RecipeError(
                f"{prepared.id}: out of GPU memory with {batch} windows of {self.plan.patch_size} at a time; "
                "lower infer.window_batch or use device=cpu"
            ) from error
        finally:
            self.network.train(training)

    def _windowed(self, image: Tensor) -> Tensor:
        settings = replace(self.windows, window_batch=self._batch_for(image.ndim - 1))
        return sliding_window(self.network, image, self.plan.patch_size, self.plan.labels.num_outputs, settings)

    def _batch_for(self, dims: int) -> int:
        """Return windows per forward pass over images of so many axes: as asked, or more where that is free."""
        least = 1
        if dims != self.plan.dims:
            least = self.plan.batch_size  # slices: training had room for as many
        elif dims == 3 and self.compute == Compute(torch.device("cpu")):
            least = _CPU_PAIR
        return max(self.settings.window_batch, least)

    def decide(self, logits: Tensor, prepared: Prepared) -> np.ndarray:
        """Return what `encoded` does for logits [K, *P] that are there already."""
        if self.settings.restore == "labels":
            labels = restore_labels(labels_from_logits(logits, self.plan), prepared.geometry, self.plan)
        else:
            labels = _spilling(lambda x: restore_argmax(x, prepared.geometry, self.plan), logits)
        # Regions have a channel each; exclusive classes share one.
        encoded = labels if self.plan.labels.regions else labels[None]
        return keep_largest(encoded) if self.settings.keep_largest else encoded

    def chances(self, logits: Tensor, prepared: Prepared) -> np.ndarray:
        """Return probabilities float32 [K, *S] on the grid of the case's own image for logits [K, *P]."""
        # Softmax comes after the interpolation, as in the label map, so that its largest is the predicted class.
        restored = _spilling(lambda x: restore_logits(x, prepared.geometry, self.plan), logits).cpu()
        chances = restored.sigmoid() if self.plan.labels.regions else restored.softmax(0)
        return chances.contiguous().numpy()


def load(path: str | Path, device: str = "auto", **overrides: Any) -> Predictor:
    """Return the Predictor of a run folder or checkpoint; see `Predictor.from_checkpoint`."""
    return Predictor.from_checkpoint(path, device, **overrides)


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
        network = network.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    return network


def _copies_to_contiguous(network: nn.Module) -> bool:
    """Instance norm brings its input back to the contiguous layout, so that channels_last costs two copies a layer."""
    return any(isinstance(m, InstanceNorm) for m in network.modules())


def _spilling(function: Callable[[Tensor], Result], logits: Tensor) -> Result:
    """Call a function on logits where they are, or in the host's memory if the GPU's does not suffice."""
    try:
        return function(logits)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    return function(logits.cpu())
