"""One optimisation step: forward, loss, backward, clip, update; nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unetkit.engine.device import choose_memory_format
from unetkit.engine.distributed import ALONE, Group
from unetkit.engine.ema import Ema
from unetkit.engine.losses.objective import ForwardLoss, Objective
from unetkit.engine.losses.pool import Pool
from unetkit.engine.optim import build_optimizer, set_learning_rate
from unetkit.engine.parallel import start_parallel
from unetkit.engine.precision import Precision, choose_format
from unetkit.infer.device import lay_out
from unetkit.recipe.training import TrainSection


class Batch(Protocol):
    """What the loader gives: image [B, C, *P] float32, label [B, L, *P] uint8, and the case of each sample."""

    @property
    def image(self) -> Tensor:
        """Network input."""

    @property
    def label(self) -> Tensor:
        """Encoded labels."""

    @property
    def case_ids(self) -> Sequence[str]:
        """Case of each sample."""


class Stepper:
    """A network with all that changes it: loss, optimiser, gradient scaler, averaged weights.

    `fallback` says why training is not compiled although the recipe asks for it, else it is None. The processes of a
    `group` take a step together, each on its own part of the batch.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Objective,
        section: TrainSection,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        self.section, self.device, self.group = section, device, group
        self.parallel = start_parallel(section.parallel, group, device)
        # the optimiser holds the parameters by identity, so they move to the device before it is built
        network, self.loss = network.to(device).train(), loss.to(device)
        self.loss.pool = Pool(group.world) if group.world > 1 else None
        self.precision = Precision(choose_format(section.precision, device), device)
        dims = len(network.task.patch_size)  # type: ignore[union-attr, arg-type]
        half = self.precision.format != "fp32"
        self.memory_format = choose_memory_format(section.channels_last, network, dims, device, half)
        lay_out(network, self.memory_format, dims)
        self.ema = Ema(network, section.ema, self.parallel) if section.ema else None
        self.network = self.parallel.prepare(network)
        self.optimizer = build_optimizer(self.network, section.optimizer, section.parallel != "fsdp")
        self.forward: nn.Module = ForwardLoss(self.network, self.loss)
        self.fallback: str | None = None
        self._to_compile = section.compile

    def __call__(self, batches: Sequence[Batch], step: int, seed: int, rate: float) -> Tensor:
        """Train on the batches of one step and return [loss of this process, gradient norm] on the device.

        Everything random in the step (dropout, stochastic depth) follows from seed, step and process alone.
        """
        if self._to_compile:
            self._to_compile = False
            self.forward, self.fallback = compile_or_fall_back(self, *self.place(batches[0]))
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        # no generator state has to be stored: a resumed run seeds its next step as this one would have
        torch.manual_seed(step_seed(seed, step, self.group.share.rank))
        losses = []
        for number, batch in enumerate(batches, start=1):
            image, label = self.place(batch)
            with self.parallel.exchanging(self.forward, number == len(batches)):
                with self.precision.autocast():
                    loss = self.forward(image, label)
                # the mean of the batches, so that the learning rate does not depend on train.accumulate
                self.precision.scaler.scale(loss / len(batches)).backward()
            losses.append(loss.detach())
        self.forward = self.parallel.joined(self.forward)
        norm = self._update()
        if self.ema:
            self.ema.update(self.network, step)
        return torch.stack([torch.stack(losses).mean(), norm])

    def place(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Bring image and label of a batch to the device, in the network's memory format."""
        # non_blocking: with pinned batches the copy runs beside the previous step
        image = batch.image.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        return image, batch.label.to(self.device, non_blocking=True)

    def _update(self) -> Tensor:
        scaler = self.precision.scaler
        # the clipping norm is one of true gradients, so the fp16 scale comes off first
        scaler.unscale_(self.optimizer)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        norm = self.parallel.norm([p.grad for p in parameters if p.grad is not None])
        if self.section.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.section.clip_norm, norm)
        scaler.step(self.optimizer)
        scaler.update()
        # a scaled fp16 gradient overflows now and then; the scaler skips that step, so its norm says nothing
        return norm.new_zeros(()) if scaler.is_enabled() else norm

    def settle(self) -> None:
        """Make the networks alike on all processes, before one is saved or validated."""
        for network in (self.network, self.ema.network) if self.ema else (self.network,):
            self.parallel.settle(network)

    @property
    def averaged(self) -> nn.Module:
        """The network to validate with: the averaged one where there is one."""
        return self.parallel.whole(self.ema.network if self.ema else self.network)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Mix the recipe's seed, a step number and that of a process into one seed of 63 bits."""
    # Seed + step would give neighbouring runs each other's random numbers. Each process has samples of its own, and
    # with one seed for all these would lose the same units to dropout.
    mixed = np.random.SeedSequence([seed % 2**63, step, *([rank] if rank else [])])
    return int(mixed.generate_state(1, np.uint64)[0] >> np.uint64(1))


def compile_or_fall_back(stepper: Stepper, image: Tensor, label: Tensor) -> tuple[nn.Module, str | None]:
    """Compile forward and loss, try them on a batch, and return them, or the uncompiled ones and the reason."""
    forward, network = stepper.forward, stepper.network
    kept = {name: value.clone() for name, value in network.named_buffers()}
    try:
        # a patch has one size for the whole run, so kernels for that size alone are the fastest
        compiled: nn.Module = torch.compile(forward, dynamic=False)  # type: ignore[assignment]
        # the trial may fail on one process alone, which must leave none waiting
        with stepper.loss.pool.closed() if stepper.loss.pool else nullcontext():
            with stepper.precision.autocast():
                loss = compiled(image, label)
            loss.backward()
    except torch.OutOfMemoryError:
        raise  # it would come again without the compiler
    except Exception as error:  # whatever a compiler may raise, training can go on without it
        return forward, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    finally:
        network.zero_grad(set_to_none=True)
        for name, value in network.named_buffers():
            value.copy_(kept[name])  # the trial has moved the running statistics
    return compiled, None
