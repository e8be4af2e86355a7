"""A network whose parameters, gradients and moments are shared out over the processes (FSDP2, arXiv:2304.11277).

For networks that with their optimiser do not fit into one GPU; each part of the network is put together when its turn
comes, and taken apart again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from unetkit.engine.distributed import Group
from unetkit.engine.parallel import Alone, average_statistics

_LEAST = 2**18
"""Parameters of a block that is put together by itself; smaller ones come with the block around them."""
_METHODS = ("queries", "landmarks")
"""What losses call of a network in place of its forward pass; parameters have to be put together for these too."""


class Shards(Alone):
    """A part of every parameter in each process."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device
        self._mesh = init_device_mesh(device.type, (group.world,))
        self._plain: nn.Module | None = None

    def prepare(self, network: nn.Module) -> nn.Module:
        """As `Alone`, with every block of some size a unit that is put together at its turn."""
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if self._plain is None:
            # in the computer's memory: what `whole` fills
            self._plain = copy.deepcopy(network).cpu()
        for p in network.parameters():
            p.data = p.data.contiguous()  # parts are cut along the first axis of memory, whatever the layout was
        _shard(network, self._mesh, root=True)
        for name in _METHODS:
            if hasattr(network, name):
                register_fsdp_forward_method(network, name)
        return network

    def exchanging(self, forward: nn.Module, last: bool) -> AbstractContextManager[object]:
        """As `Alone`."""
        for module in forward.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(last, recurse=False)
        return nullcontext()

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """As `Alone`, over the parts of all processes."""
        return _full(super().norm(gradients))

    def settle(self, network: nn.Module) -> None:
        """As `Replicas`."""
        if self.device.type != "cuda":
            average_statistics(network, self.group.world)

    def whole(self, network: nn.Module) -> nn.Module:
        """Return a network of its own with all weights: processes that validate different cases do not keep step."""
        filled = copy.deepcopy(self._plain)
        assert filled is not None, "prepare comes first"
        filled.load_state_dict({name: _full(value).cpu() for name, value in network.state_dict().items()})
        return filled.to(self.device)

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `Alone`; to save memory the tensors come together in the first process alone."""
        # one at a time: all of them at once might not fit into the GPU
        found = ((name, _full(value)) for name, value in tensors.items())
        return {name: value.cpu() for name, value in found if self.group.leads}

    def like(self, value: Tensor, own: Tensor) -> Tensor:
        """As `Alone`."""
        if not isinstance(own, DTensor):
            return super().like(value, own)
        return distribute_tensor(value.to(own.device, copy=True), own.device_mesh, own.placements)

    def local(self, tensor: Tensor) -> Tensor:
        """As `Alone`."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shard(module: nn.Module, mesh: DeviceMesh, root: bool = False) -> None:
    """Make units of a module's blocks, from the inside out, and of itself."""
    for child in module.children():
        # single layers stay with their block, which may use their weights without calling them
        if any(True for _ in child.children()) and sum(p.numel() for p in child.parameters()) >= _LEAST:
            _shard(child, mesh)
    # a bare list has no forward pass around which it could be put together
    if root or not isinstance(module, nn.ModuleList | nn.ModuleDict):
        # Autocast chooses the number format, as with `Replicas`, so that both train alike; sums are fp32 in any case.
        fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
