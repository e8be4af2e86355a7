"""Multi-structure GCN: contours of heart chambers from a MobileNet's features, by layers over two rings of points.

arXiv:2310.01210.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.contours import ContourNetwork, Landmarks, Rings, outward_normals, ring_sizes, rings_for
from unetkit.blocks.encoders import pooled_encoder
from unetkit.blocks.precision import at_least_fp32, no_autocast
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

SIZES = {
    "small": (1, (4, 8)),
    "medium": (5, (4, 8, 16, 32)),
    "large": (11, (4, 8, 8, 16, 16, 32, 32, 48)),
}
"""Points that one ring sees of the other, and channels of the layers, the last one first."""
ENDS, BETWEEN = 43, 21
"""Points of the first and of the last contour (ventricle, epicardium), and of those between (atrium)."""


def ring_lists(own: int, other: int, reach: int) -> tuple[Tensor, Tensor]:
    """Return what each point of a ring is computed from: points of its own ring, and of the other one.

    All of the own ring [own, own], itself first and then in order; and `reach` [own, reach] about the same place of
    the other ring, which counts `other` places.
    """
    place = torch.arange(own)[:, None]
    before = reach // 2  # an even reach has one more before than behind
    return (place + torch.arange(own)) % own, (place + torch.arange(reach) - before) % other


class RingLayer(nn.Module):
    """One linear layer for all points of the inner ring, another for those of the outer one, on listed neighbours.

    Both rings have as many places, those without a point hold 0. Without an outer ring the inner one sees itself alone.
    """

    def __init__(self, sizes: tuple[int, int], reach: int, in_channels: int, out_channels: tuple[int, int]) -> None:
        super().__init__()
        self.sizes, self.places = sizes, max(sizes)
        reach = reach if sizes[1] else 0
        self.linears = nn.ModuleList()
        for ring, (size, channels) in enumerate(zip(sizes, out_channels, strict=True)):
            if not size:
                continue
            linear = nn.Linear((size + reach) * in_channels, channels)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.linears.append(linear)
            own, other = ring_lists(size, self.places, reach)
            start = (ring * self.places, (1 - ring) * self.places)
            neighbours = torch.cat((own + start[0], other + start[1]), 1)
            self.register_buffer(f"neighbours{ring}", neighbours, persistent=False)

    def forward(self, rings: Sequence[Tensor]) -> list[Tensor]:
        """Map the points [B, N, C] of each ring to as many of the next layer."""
        nodes = torch.cat([F.pad(ring, (0, 0, 0, self.places - ring.shape[1])) for ring in rings], 1)
        found = []
        for ring, linear in enumerate(self.linears):
            neighbours: Tensor = getattr(self, f"neighbours{ring}")
            found.append(linear(nodes[:, neighbours].flatten(2)))
        return found


class MultiStructureGcn(ContourNetwork):
    """An encoder of images to one vector, a linear layer to all points, and ring layers with ELU between them.

    The last contour is the outer ring, all others one after the other the inner one. With `displacement` it is given
    by distances from the first contour.
    """

    def __init__(
        self, encoder: nn.Module, rings: Rings, size: tuple[int, tuple[int, ...]], displacement: bool, regions: bool
    ) -> None:
        super().__init__(rings, regions)
        reach, channels = size
        sizes = ring_sizes(rings)
        self.first, self.displacement = sizes[0], displacement
        self.sizes = (sum(sizes[:-1]), sizes[-1]) if len(sizes) > 1 else (sizes[0], 0)
        self.encoder = encoder
        widths = (channels[-1], *channels[::-1])
        features: int = encoder.num_features  # type: ignore[assignment]
        self.start = nn.Linear(features, sum(sizes) * widths[0])
        layers = [RingLayer(self.sizes, reach, before, (after, after)) for before, after in pairwise(widths)]
        last = RingLayer(self.sizes, reach, widths[-1], (2, 1 if displacement else 2))
        self.layers = nn.ModuleList([*layers, last])

    def landmarks(self, image: Tensor) -> Landmarks:
        """Return the positions of all points, or of the inner ring with the distances of the outer one."""
        features = self.encoder(image)
        # positions in bf16 would be off by pixels
        with no_autocast(image):
            nodes = self.start(at_least_fp32(features)).unflatten(1, (sum(self.sizes), -1))
            rings = [ring for ring in nodes.split(self.sizes, 1) if ring.shape[1]]
            *layers, last = self.layers
            for layer in layers:
                rings = [F.elu(ring) for ring in layer(rings)]
            rings = last(rings)
        if self.displacement:
            return Landmarks((rings[0],), rings[1].squeeze(2))
        return Landmarks((torch.cat(rings, 1),))

    def outline(self, found: Landmarks) -> Tensor:
        """Return the points of all contours; those given by a distance lie so far outside of the first contour."""
        positions = found.positions[0]
        if found.distances is None:
            return positions
        inner = positions[:, : self.first]
        return torch.cat((positions, inner + outward_normals(inner) * found.distances[..., None]), 1)


@register(
    ModelInfo(
        title="Multi-structure GCN",
        family="cnn",
        year=2023,
        paper="2310.01210",
        dims=(2,),
        min_size=32,
        learns="contours",
        source=("github:gillesvntnu/GCN_multistructure", "9686487", "MIT"),
        params={2: 3331772},
        params_at={2: (3, 4, (256, 256))},
        gflops={2: 0.7858},
        activation_mb={2: 116.6},
        notes=(
            "Contours are drawn as logits, signed distances in pixels. Points are those of closed contours, from the "
            "top on clockwise, and an outer contour given by distances stands on the normals of the inner one all "
            "around; the reference has open contours between the points where the chambers meet. Without an outer "
            "ring, for a single contour, the inner one sees itself alone."
        ),
    )
)
def gcn_multistructure(
    task: TaskShape,
    *,
    size: Literal["small", "medium", "large"] = "small",
    rings: Sequence[int | Sequence[int]] | None = None,
    displacement: bool = False,
    regions: bool = False,
    dropout: float = 0.2,
    pretrained: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Build the network of a published `size`, with `rings` points for the contours of each class, the last outermost.

    `displacement`: the last contour is given by its distances from the first. `regions`: an output for each class,
    else one of the background too. `dropout` is that of the image's features; `pretrained` or `weights` (a file) are
    those of timm's MobileNetV2. Raises ModelError for contours that do not fit the classes or each other.
    """
    sizes = choose(SIZES, size, "size")
    classes = task.num_classes - (not regions)
    usual = [ENDS if place in (0, classes - 1) else BETWEEN for place in range(classes)]
    found = rings_for(task, rings, usual, regions)
    points = ring_sizes(found)
    if displacement and (len(points) < 2 or points[0] != points[-1]):
        raise ModelError(
            f"displacement=true with contours of {list(points)} points: the last lies about the first, point by "
            "point; give both as many, or displacement=false"
        )
    encoder = pooled_encoder("mobilenetv2_100", task.in_channels, dropout, pretrained=pretrained, weights=weights)
    return MultiStructureGcn(encoder, found, sizes, displacement, regions)
