"""HybridGNet: contours of organs, decoded from an image's latent vector by layers over rings of points.

arXiv:2203.10977; its skips let points look at the encoder's maps where they lie.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.contours import ContourNetwork, Landmarks, Rings, pooled_rings, ring_sizes, rings_for, unpool_rings
from unetkit.blocks.precision import at_least_fp32, no_autocast
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

ORGANS = (44, 50, 26, 23, 23)
"""Points of right lung, left lung, heart and the clavicles."""
WIDTHS = (8, 16, 32, 64, 128)
COARSE, FINE = 16, 32
"""Channels of points on the pooled rings and on all of them."""
ORDER = 6  # of the Chebyshev polynomials
WINDOW = 3  # pixels of a map that a point looks at
SPREAD = 0.1  # standard deviation of the decoder's first weights


class ResidualBlock(nn.Module):
    """Norm and ReLU before each of two convolutions, added to the input (through a convolution where widths differ).

    Statistics are those of the batch at hand, in evaluation too.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.BatchNorm2d(in_channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels, track_running_stats=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, channels, H, W]."""
        return F.relu(self.convs(x) + self.shortcut(x))


class ChebyshevLayer(nn.Module):
    """Chebyshev convolution (arXiv:1606.09375) over rings: linear layers of the polynomials of neighbours' means.

    With the largest eigenvalue taken as 2, the scaled Laplacian of a ring is minus the mean of a point's two
    neighbours.
    """

    def __init__(self, rings: Rings, in_channels: int, out_channels: int, order: int, bias: bool = True) -> None:
        super().__init__()
        self.sizes = ring_sizes(rings)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.terms = nn.ModuleList(nn.Linear(in_channels, out_channels, bias=False) for _ in range(order))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, SPREAD)

    def _laplacian(self, x: Tensor) -> Tensor:
        # 1 / 2 as the product of two roots, with the rounding of the reference: on the last bit hangs how often a
        # skip samples its window
        half = torch.tensor(2.0, dtype=x.dtype).pow(-0.5).square()
        rings = x.split(self.sizes, 1)
        return -torch.cat([half * ring.roll(1, 1) + half * ring.roll(-1, 1) for ring in rings], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map points [B, N, in_channels] to [B, N, out_channels]."""
        found, before, now = self.terms[0](x), x, x
        # T_0 = x, T_1 = L x, T_k = 2 L T_(k-1) - T_(k-2)
        for degree, term in enumerate(self.terms[1:], start=1):
            moved = self._laplacian(now)
            before, now = now, moved if degree == 1 else 2 * moved - before
            found = found + term(now)
        return found if self.bias is None else found + self.bias


class PointLayer(nn.Module):
    """Chebyshev layer, norm over the channels of each point, ReLU."""

    def __init__(self, rings: Rings, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ChebyshevLayer(rings, in_channels, channels, ORDER)

    def forward(self, x: Tensor) -> Tensor:
        """Map points [B, N, in_channels] to [B, N, channels]."""
        # the norm takes points for channels, as in the reference: each is normalised by itself
        return F.relu(F.instance_norm(self.conv(x)))


class Skip(nn.Module):
    """Say where points are so far, and give them what the map looks like there (image-to-graph skip connection)."""

    def __init__(self, rings: Rings, channels: int) -> None:
        super().__init__()
        self.place = ChebyshevLayer(rings, channels, 2, 1, bias=False)

    def forward(self, x: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return points [B, N, channels + C + 2] and their positions [B, N, 2]; maps are [B, C, H, W]."""
        positions = self.place(x)
        return torch.cat((x, look(at_least_fp32(maps), positions), positions), 2), positions


def look(maps: Tensor, positions: Tensor) -> Tensor:
    """Return the means [B, N, C] of maps [B, C, H, W] in a window of 3 x 3 pixels about positions [B, N, 2].

    Positions are (x, y) from 0 to 1; no gradient reaches them.
    """
    from torchvision.ops import roi_align  # slow to import, and only needed here

    size = torch.tensor(maps.shape[:1:-1], device=maps.device, dtype=maps.dtype)
    corner = positions.detach() * size - 1
    # the reference's corners: aligned boxes end half a pixel earlier, so that a point lies on a pixel's first corner
    boxes = torch.cat((corner, corner + WINDOW), 2)
    # how often a box is sampled is its width rounded up, which rounding noise makes 3 or 4 in the reference as well
    return roi_align(maps, list(boxes), 1, aligned=True).view(*positions.shape[:2], -1)


class HybridGNet(ContourNetwork):
    """A convolutional encoder to a normal distribution of latent vectors, and a decoder from those to points.

    `skips`: none, one from the deepest map to the pooled rings, or a second one from the map above to all points. A
    latent vector is drawn in training; its mean is taken in evaluation.
    """

    def __init__(self, task: TaskShape, rings: Rings, skips: int, latent: int, regions: bool) -> None:
        super().__init__(rings, regions)
        channels = (task.in_channels, *WIDTHS, WIDTHS[-1])
        self.encoder = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(channels))
        last_map = WIDTHS[-1]
        for side in task.patch_size:
            last_map *= side // 2 ** len(WIDTHS)
        self.mean, self.log_variance = nn.Linear(last_map, latent), nn.Linear(last_map, latent)
        coarse = pooled_rings(rings)
        self.start = nn.Linear(latent, sum(ring_sizes(coarse)) * COARSE)
        nn.init.normal_(self.start.weight, 0, SPREAD)
        more = [WIDTHS[-1] + 2 if level < skips else 0 for level in range(2)]
        self.pooled = nn.Sequential(PointLayer(coarse, COARSE, COARSE), PointLayer(coarse, COARSE, COARSE))
        self.pooled_skip = Skip(coarse, COARSE) if more[0] else None
        self.widen = PointLayer(coarse, COARSE + more[0], FINE)
        self.full = PointLayer(rings, FINE, FINE)
        self.full_skip = Skip(rings, FINE) if more[1] else None
        self.last = PointLayer(rings, FINE + more[1], FINE)
        self.place = ChebyshevLayer(rings, FINE, 2, 1, bias=False)

    def landmarks(self, image: Tensor) -> Landmarks:
        """Return the positions of all points, those that skips looked at, and the latent distribution."""
        maps = [image]
        for level, block in enumerate(self.encoder):
            maps.append(block(F.max_pool2d(maps[-1], 2) if level else image))
        # positions in bf16 would be off by pixels
        with no_autocast(image):
            flat = at_least_fp32(maps[-1].flatten(1))
            mean, log_variance = self.mean(flat), self.log_variance(flat)
            latent = mean
            if self.training:
                latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
            positions = self._decoded(latent, maps)
        return Landmarks(positions, latent=(mean, log_variance))

    def _decoded(self, latent: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        looked = []
        points = self.pooled(F.relu(self.start(latent)).unflatten(1, (-1, COARSE)))
        if self.pooled_skip is not None:
            points, where = self.pooled_skip(points, maps[-1])
            looked.append(where)
        points = self.full(unpool_rings(self.widen(points), self.rings))
        if self.full_skip is not None:
            points, where = self.full_skip(points, maps[-2])
            looked.append(where)
        return (self.place(self.last(points)), *looked)


@register(
    ModelInfo(
        title="HybridGNet",
        family="cnn",
        year=2022,
        paper="2203.10977",
        dims=(2,),
        multiple=32,
        min_size=64,
        fixed=True,
        learns="contours",
        source=("github:ngaggion/HybridGNet", "7c39944", "GPL-3.0"),
        params={2: 17511090},
        params_at={2: (1, 4, (1024, 1024))},
        gflops={2: 9.542},
        activation_mb={2: 557.2},
        notes=(
            "Contours are drawn as logits, signed distances in pixels. As in the reference, batch norm takes the "
            "statistics of the batch at hand in evaluation too, so that an image's result depends on those beside it, "
            "and its instance norm of points is one over the channels of each point. Parameters follow the built size: "
            "97 % of them are the linear layers to the latent vector."
        ),
    )
)
def hybridgnet(
    task: TaskShape,
    *,
    skips: int = 2,
    rings: Sequence[int | Sequence[int]] | None = None,
    latent: int = 64,
    regions: bool = False,
) -> nn.Module:
    """Build HybridGNet with `skips` (0 to 2) and `rings` points for the contours of each class.

    Without `rings` classes are the organs of the paper in its order: right lung, left lung, heart, clavicles. `latent`
    is the length of the latent vector. `regions`: an output for each class, else one of the background too. Raises
    ModelError for other skips, and for contours that do not fit the classes.
    """
    if skips not in (0, 1, 2):
        raise ModelError(f"skips={skips}: choose 0 (none), 1 (to the pooled points) or 2 (to all points too)")
    classes = task.num_classes - (not regions)
    usual = (*ORGANS, *[ORGANS[-1]] * classes)[:classes]
    return HybridGNet(task, rings_for(task, rings, usual, regions), skips, latent, regions)
