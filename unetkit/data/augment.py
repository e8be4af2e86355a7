"""Carry out what was drawn for a batch of patches, in torch, on whatever device they lie; 2D and 3D alike.

Space comes first, sample by sample, because each has cut just the box that its own rotation needs; intensities follow,
one batched operation per transform over the channels that drew it; mirroring is last, as in nnU-Net. Labels come from
the nearest voxel: interpolating every class, as nnU-Net does, moves borders by less than a voxel at K times the cost.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unetkit.data.augment_draw import Draw
from unetkit.data.augment_masks import change_masks
from unetkit.data.augment_table import Table
from unetkit.data.cascade import one_hot
from unetkit.data.lenses import lens_sources
from unetkit.data.resample import evaluation_matrix

_BLUR_RADIUS = 3  # three times the largest sigma of the presets
_BEND_REACH = 3.0  # displacements beyond three standard deviations see the box's border repeated


@dataclass(frozen=True, eq=False)
class Sample:
    """What was cut for one sample: image [C, *Q], label uint8 [L, *Q], and what was drawn.

    Q is the patch before its quarter turns, with `margin` voxels more on both sides of each axis. Below the label,
    and moving with it, may lie codes of soft labels and, in a cascade, the encoded map of the earlier stage: [3 L, *Q].
    """

    image: Tensor
    label: Tensor
    draw: Draw
    margin: tuple[int, ...]
    case_id: str

    def pinned(self) -> "Sample":
        """The same in page-locked memory, from which copies to a GPU need not wait."""
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory())


def source_box(
    draw: Draw, start: Sequence[int], patch_size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return start, size and margin of the box that a drawn sample reads, in voxels.

    It is the patch itself, turned, unless this very sample rotates, scales or bends.
    """
    size = turned_size(draw, patch_size)
    # A turned box has the same centre as the patch, but height and width exchanged.
    first = [s + (p - n) // 2 for s, p, n in zip(start, patch_size, size, strict=True)]
    margin = [0] * len(size)
    if draw.matrix is not None or draw.bend:
        moving = len(draw.matrix) if draw.matrix is not None else len(draw.control)  # type: ignore[arg-type]
        # Largest |M x| over the box's corners: the row sums of |M| times the half sides.
        half = (np.array(size[-moving:]) - 1) / 2
        reach = half + _BEND_REACH * draw.bend
        if draw.matrix is not None:
            reach = np.abs(draw.matrix) @ reach
        margin[-moving:] = np.ceil(reach - half).clip(0).astype(int).tolist()
    low = tuple(f - m for f, m in zip(first, margin, strict=True))
    return low, tuple(n + 2 * m for n, m in zip(size, margin, strict=True)), tuple(margin)


def turned_size(draw: Draw, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the patch size before the quarter turns of a draw."""
    size = tuple(patch_size)
    return (*size[:-2], size[-1], size[-2]) if draw.turns % 2 else size


def augment(samples: Sequence[Sample], table: Table, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the batch that `samples` become: image [B, C, *P] float32 and label [B, L, *P] uint8, on `device`.

    Codes of soft labels stay below the labels, [B, 2 L, *P]. In a cascade the images end with the masks of the earlier
    stage, a channel each.
    """
    images, labels = zip(*(_in_space(sample, device) for sample in samples), strict=True)
    image, label = torch.stack(images), torch.stack(labels)
    draws = [sample.draw for sample in samples]
    # Taken before the intensities change: afterwards nothing tells padding and masked background apart.
    outside = (image == 0).all(1, keepdim=True) if table.zero_outside else None
    change_intensities(image, draws, slicewise=table.slicewise)
    if outside is not None:
        image.masked_fill_(outside, 0)
    done = [finished(*parts, table) for parts in zip(image, label, draws, strict=True)]
    images, labels = zip(*done, strict=True)
    return torch.stack(images), torch.stack(labels)


def turned(array: Tensor, draw: Draw) -> Tensor:
    """Turn [C, *S] by the drawn quarters in the plane of its last two axes."""
    return torch.rot90(array, draw.turns, (-2, -1)) if draw.turns else array


def finished(image: Tensor, label: Tensor, draw: Draw, table: Table) -> tuple[Tensor, Tensor]:
    """Mirror a sample along the drawn axes, left and right classes changing places, and join image and earlier stage.

    image [C, *S] and label [L, *S], below which codes of soft labels may lie; of the map of an earlier stage, the last
    L channels, masks become channels of the image.
    """
    if draw.flips:
        axes = [1 + axis for axis in draw.flips]
        image, label = image.flip(axes), label.flip(axes)
    parts = list(label.chunk(1 + table.soft + bool(table.masks.channels)))
    if draw.swap:
        parts = [_swapped(part, table.swap) for part in parts]
    if table.masks.channels:
        masks = one_hot(parts.pop()[None], table.masks.channels, table.masks.regions)[0]
        image = torch.cat((image, change_masks(masks, draw, table.masks).to(image.dtype)))
    return image, parts[0] if len(parts) == 1 else torch.cat(parts)


def _swapped(label: Tensor, swap: Sequence[tuple[int, int]]) -> Tensor:
    label = label.clone()
    for a, b in swap:
        if len(label) > 1:  # regions have a channel each
            label[[a, b]] = label[[b, a]]
        else:
            was_a, was_b = label == a, label == b
            # Both masks first, or the second assignment would take back the first.
            label[was_a], label[was_b] = b, a
    return label


def change_intensities(image: Tensor, draws: Sequence[Draw], *, slicewise: bool = False) -> None:
    """Add noise, blur, and change brightness, contrast, resolution and gamma of [B, C, *P] in place, as drawn."""
    for index, draw in enumerate(draws):
        if draw.noise:
            # A generator for each sample: neither its neighbours in the batch nor their number change its noise.
            source = torch.Generator(image.device).manual_seed(draw.seed)
            shape, device = image.shape[1:], image.device
            image[index] += draw.noise * torch.randn(shape, generator=source, device=device)
    _change(image, [d.blur for d in draws], 0, _blurred)
    _change(image, [d.brightness for d in draws], 1, lambda x, factor: x * factor)
    _change(image, [d.contrast for d in draws], 1, _contrasted)
    _change(image, [d.low_resolution for d in draws], 1, lambda x, zoom: _coarsened(x, zoom, slicewise))
    # Inverted gamma acts on the bright end of the range; nnU-Net applies both, this one first.
    _change(image, [d.gamma_inverted for d in draws], 1, lambda x, gamma: -_gamma(-x, gamma))
    _change(image, [d.gamma for d in draws], 1, _gamma)


def _change(
    image: Tensor,
    strengths: Sequence[np.ndarray | None],
    neutral: float,
    transform: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Replace the channels with a strength by `transform(channels [N, *P], strengths [N, ..., 1, 1])`, all at once."""
    chosen = [
        (b, c, value)
        for b, values in enumerate(strengths)
        if values is not None
        for c, value in enumerate(values)
        if np.any(value != neutral)
    ]
    if not chosen:
        return
    # Indexing by pairs (b, c) picks just the channels that drew the transform: [N, *P].
    rows = torch.tensor([b for b, _, _ in chosen], device=image.device)
    columns = torch.tensor([c for _, c, _ in chosen], device=image.device)
    given = torch.tensor(np.array([value for _, _, value in chosen]), dtype=torch.float32, device=image.device)
    given = given.reshape(*given.shape, *(1,) * (image.ndim - 2))
    image[rows, columns] = transform(image[rows, columns], given)


def _in_space(sample: Sample, device: torch.device) -> tuple[Tensor, Tensor]:
    draw = sample.draw
    image, label = sample.image.to(device, non_blocking=True), sample.label.to(device, non_blocking=True)
    if draw.matrix is not None or draw.control is not None:
        places = _places(sample, device)
        image = _interpolated(image, places, "nearest" if draw.nearest else "bilinear")
        label = _nearest(label, places)
    if draw.lenses:
        moving = len(draw.lenses[0].centre)
        sources = torch.from_numpy(lens_sources(label.shape[-moving:], draw.lenses)).to(device)
        image, label = image[(..., *sources)], label[(..., *sources)]
    return turned(image, draw), turned(label, draw)


def _places(sample: Sample, device: torch.device) -> list[Tensor]:
    """Return where each patch voxel looks in its box, in voxels: one [*P] for each of the A moving axes."""
    draw = sample.draw
    moving = len(draw.matrix) if draw.matrix is not None else len(draw.control)  # type: ignore[arg-type]
    matrix = (np.eye(moving) if draw.matrix is None else draw.matrix).tolist()
    box, margin = sample.image.shape[-moving:], sample.margin[-moving:]
    size = [n - 2 * m for n, m in zip(box, margin, strict=True)]
    # Offsets from the centre, each along its own axis: broadcasting adds them up for a fraction of a grid's cost.
    offsets = [torch.arange(n, device=device).sub((n - 1) / 2) for n in size]
    offsets = [offset.reshape(-1, *(1,) * (moving - 1 - axis)) for axis, offset in enumerate(offsets)]
    if draw.control is not None:
        # The bend is added before the matrix, so it is scaled and rotated with everything else.
        field = _field(torch.from_numpy(draw.control).to(device), size)
        offsets = [offset + bend for offset, bend in zip(offsets, field, strict=True)]
    return [
        sum(weight * offset for weight, offset in zip(row, offsets, strict=True)) + (n - 1) / 2
        for row, n in zip(matrix, box, strict=True)
    ]


def _field(control: Tensor, size: Sequence[int]) -> Tensor:
    """Spread control points [A, *grid] over [A, *size] by cubic B-splines (free-form deformation)."""
    for axis, n in enumerate(size):
        points = control.shape[axis + 1]
        weights = torch.from_numpy(evaluation_matrix(np.linspace(0, points - 1, n), points, 3)).to(control)
        control = torch.tensordot(control, weights, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    return control


def _interpolated(image: Tensor, places: Sequence[Tensor], mode: str) -> Tensor:
    """Look [C, *Q] up at places between voxels; axes in front of the moving ones ride along as channels."""
    moving = len(places)
    lead, box = image.shape[: image.ndim - moving], image.shape[image.ndim - moving :]
    # grid_sample wants x first and pixel centres at (2 i + 1) / n - 1 (align_corners=False).
    grid = torch.stack([(2 * at + 1) / n - 1 for at, n in zip(places, box, strict=True)][::-1], dim=-1)
    flat = image.reshape(1, math.prod(lead), *box)
    out = functional.grid_sample(flat, grid[None], mode=mode, padding_mode="border", align_corners=False)
    return out.reshape(*lead, *places[0].shape)


def _nearest(label: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Look [L, *Q] up at the voxels nearest to places."""
    moving = len(places)
    lead, box = label.shape[: label.ndim - moving], label.shape[label.ndim - moving :]
    index = torch.zeros_like(places[0], dtype=torch.int32)
    for at, n in zip(places, box, strict=True):
        # Horner's scheme for the flat index: ((i * n1) + j) * n2 + k.
        index = index * n + at.round().clamp(0, n - 1).to(torch.int32)
    flat = label.reshape(math.prod(lead), math.prod(box)).index_select(1, index.flatten())
    return flat.reshape(*lead, *places[0].shape)


def _blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Filter [N, *P] by Gaussians of sigma [N, dims, ...], separably, the border repeated."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=image.device)
    for axis in range(1, image.ndim):
        width = sigma[:, axis - 1].reshape(-1, 1)
        weights = torch.exp(-0.5 * (offsets / width) ** 2)
        weights = (weights / weights.sum(1, keepdim=True)).reshape(len(image), -1, *(1,) * (image.ndim - 1))
        n = image.shape[axis]
        # Clamped indices repeat the border, which pads all sides without a copy of the inside.
        at = torch.arange(-_BLUR_RADIUS, n + _BLUR_RADIUS, device=image.device).clamp(0, n - 1)
        padded = image.index_select(axis, at)
        image = padded.narrow(axis, 0, n) * weights[:, 0]
        for tap in range(1, len(offsets)):
            image.addcmul_(padded.narrow(axis, tap, n), weights[:, tap])
    return image


def _contrasted(image: Tensor, factor: Tensor) -> Tensor:
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    # nnU-Net keeps the range that was there, so that contrast makes no new extremes.
    return torch.minimum(torch.maximum((image - mean) * factor + mean, low), high)


def _coarsened(image: Tensor, zoom: Tensor, slicewise: bool) -> Tensor:
    """Sample [N, *P] down by nearest and up again linearly, each by its own zoom."""
    out = torch.empty_like(image)
    size = list(image.shape[1:])
    mode = "trilinear" if len(size) == 3 else "bilinear"
    for index, factor in enumerate(zoom.flatten().tolist()):
        small = [max(1, round(n * factor)) for n in size]
        if slicewise and len(size) == 3:
            # Thick slices are coarse already; only the plane loses resolution.
            small[0] = size[0]
        coarse = functional.interpolate(image[index][None, None], small, mode="nearest-exact")
        out[index] = functional.interpolate(coarse, size, mode=mode, align_corners=False)[0, 0]
    return out


def _gamma(image: Tensor, gamma: Tensor) -> Tensor:
    """Raise the range of each of [N, *P], taken as 0 to 1, to a power; mean and deviation stay what they were."""
    axes = tuple(range(1, image.ndim))
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    span = (high - low).clamp_min(1e-7)
    out = ((image - low) / span).pow_(gamma).mul_(span).add_(low)
    mean, deviation = _moments(image)
    new_mean, new_deviation = _moments(out)
    return out.sub_(new_mean).mul_(deviation / new_deviation.clamp_min(1e-7)).add_(mean)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each of [N, *P]; two passes are ten times faster than torch.std_mean on a CPU."""
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    return mean, (image - mean).square_().mean(axes, keepdim=True).sqrt_()
