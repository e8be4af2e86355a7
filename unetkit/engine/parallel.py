"""How the processes of a group share one network: each has a copy (DDP), or a part of every parameter (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unetkit.engine.distributed import Group
from unetkit.errors import RecipeError
from unetkit.recipe.training import TrainSection

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Alone:
    """One process has the whole network and exchanges nothing."""

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return the network as the processes have it, before the optimiser sees its parameters."""
        return network

    def joined(self, forward: nn.Module) -> nn.Module:
        """Return the module of the steps to come, after the gradients of the first one are computed."""
        return forward

    def exchanging(self, forward: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Context of one batch's pass; only with the `last` one of a step the gradients are exchanged."""
        return nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of all gradients together, a scalar."""
        return torch.nn.utils.get_total_norm(gradients)

    def settle(self, network: nn.Module) -> None:
        """Make alike on all processes what training does not keep alike by itself."""

    def whole(self, network: nn.Module) -> nn.Module:
        """Return a network that this process can use without the others."""
        return network

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors as a file shall hold them."""
        return dict(tensors)

    def like(self, value: Tensor, own: Tensor) -> Tensor:
        """Return a tensor from a file in memory order, and as the part, of one of this process."""
        return torch.empty_like(own, dtype=value.dtype).copy_(value)

    def local(self, tensor: Tensor) -> Tensor:
        """Return what this process has of a tensor."""
        return tensor


class Replicas(Alone):
    """A copy of the network in each process; gradients are averaged while the backward pass goes on."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device
        self._copies: DistributedDataParallel | None = None
        # torch synchronises batch norm on GPUs only
        self._loose = device.type != "cuda"

    def prepare(self, network: nn.Module) -> nn.Module:
        """As `Alone`; batch norm takes its statistics over the batch of all processes, on GPUs."""
        return network if self._loose else nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def joined(self, forward: nn.Module) -> nn.Module:
        """Average the first step's gradients, and return the module that averages those to come by itself."""
        if self._copies is None:
            parameters = [p for p in forward.parameters() if p.requires_grad]
            # The first step tells which parameters take no part (heads of deep supervision); to look for them in each
            # step, as DDP can, costs a walk through the graph that networks without such need not pay.
            idle = [i for i, p in enumerate(parameters) if p.grad is None]
            everywhere = set.intersection(*map(set, self.group.gather(idle)))
            for i, p in enumerate(parameters):
                if i not in everywhere:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                    dist.all_reduce(p.grad)
                    p.grad /= self.group.world
            # buffers are no business of every step: see `settle`
            with warnings.catch_warnings():
                # the new name of broadcast_buffers is unknown to the oldest torch that will do
                warnings.simplefilter("ignore", FutureWarning)
                self._copies = DistributedDataParallel(
                    forward,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    find_unused_parameters=bool(everywhere),
                )
        return self._copies

    def exchanging(self, forward: nn.Module, last: bool) -> AbstractContextManager[object]:
        """As `Alone`."""
        return nullcontext() if last or self._copies is None else self._copies.no_sync()

    def settle(self, network: nn.Module) -> None:
        """Average the running statistics of batch norms that are not synchronised."""
        if self._loose:
            average_statistics(network, self.group.world)


def average_statistics(network: nn.Module, world: int) -> None:
    """Average the running statistics of batch norms over the processes."""
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            dist.all_reduce(buffer)
            buffer /= world


def start_parallel(asked: str, group: Group, device: torch.device) -> Alone:
    """Return how a group shares its network, by `train.parallel`."""
    if asked == "fsdp":
        from unetkit.engine.shards import Shards  # loads much that hardly any training needs

        return Shards(group, device)
    return Replicas(group, device) if group.world > 1 else Alone()


def check_parallel(section: TrainSection, group: Group) -> None:
    """Raise RecipeError for a `train.parallel` without torchrun, or one that does not go with other keys."""
    asked = section.parallel
    if asked == "fsdp" and section.precision == "fp16":
        raise RecipeError("train.parallel=fsdp scales no gradients; use train.precision=bf16 or fp32")
    if asked == "fsdp" and section.compile:
        raise RecipeError("train.parallel=fsdp compiles nothing; drop train.compile, or use train.parallel=ddp")
    if asked != "auto" and not group.launched:
        raise RecipeError(
            f"train.parallel={asked} is for several processes; start them with "
            "`torchrun --nproc-per-node N -m unetkit train ...`, or drop the key"
        )


def has_loose_norm(network: nn.Module, device: torch.device) -> bool:
    """Whether a network has batch norms whose statistics each process takes of its own samples."""
    return device.type != "cuda" and any(isinstance(m, _NORMS) for m in network.modules())
