"""Many classes of a large case to labels on its own grid, slab by slab: seconds and peak memory of the process.

    python bench_export.py --src 300x256x256 --dst 600x512x512 --classes 118

Logits are made up as they are asked for, `--slab-mib` at a time, as windows would give them: what memory is
measured is that of the labels' making, and of one slab. `--windows` has them come from sums of overlapping windows
of a network that does next to nothing, within `--sums-mib`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import common
import numpy as np
from synthetic import label_volume


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--src", type=common.shape3, default=(300, 256, 256), help="the network's grid")
    p.add_argument("--dst", type=common.shape3, default=(600, 512, 512), help="the case's own grid")
    p.add_argument("--classes", type=int, default=118, help="including background")
    p.add_argument("--slab-mib", type=float, default=64.0)
    p.add_argument("--windows", type=common.shape3, default=None, help="size of the windows")
    p.add_argument("--sums-mib", type=float, default=1024.0)
    args = p.parse_args()
    import torch

    from unetkit.data.preprocess import Geometry
    from unetkit.infer.slabs import Layout, choose_layout, segment_slabs
    from unetkit.plan import Normalization, Plan
    from unetkit.types import Labels

    if args.threads:
        torch.set_num_threads(args.threads)
    names = tuple(str(k) for k in range(1, args.classes))
    labels = Labels(names, tuple((k,) for k in range(1, args.classes)))
    plan = Plan(args.windows or args.src, 1, ("image",), labels, (Normalization("none"),))
    box = tuple((0, n) for n in args.dst)
    ratio = tuple(d / s for s, d in zip(args.src, args.dst, strict=True))
    geometry = Geometry(args.dst, (1.0,) * 3, (0, 1, 2), (False,) * 3, box, args.src, ratio)
    truth = torch.from_numpy(label_volume(args.src, args.classes - 1, args.seed))
    if args.windows:
        layout = choose_layout(geometry, args.windows, 4 * args.classes, args.sums_mib * 2**20)
        stream = of_windows(truth, args)
    else:
        layout, stream = Layout(0, (None,)), lambda axis, band: made_up(truth, args)
    before = common._status_mib("VmRSS")
    common._reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    made = segment_slabs(stream, layout, geometry, plan)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = common._status_mib("VmHWM") - before
    whole = 4 * args.classes * np.prod(args.src, dtype=float) / 2**20
    print(f"{args.classes} classes {args.src} -> {args.dst}: {wall:.1f} s, {cpu:.1f} CPU s, +{peak:.0f} MiB at most")
    print(
        f"  of them labels {made.encoded.nbytes / 2**20:.0f} MiB; {len(layout.bands)} band(s) along axis {layout.axis}"
    )
    print(f"  all logits on the network's grid would be {whole:.0f} MiB; labels found: {len(np.unique(made.encoded))}")


def made_up(truth, args) -> Iterator:
    """Logits that agree with `truth` but for noise, in one buffer of `--slab-mib`."""
    import torch

    row = 4 * args.classes * truth[0].numel() / 2**20
    rows = max(1, int(args.slab_mib / row))
    noise = torch.rand(args.classes, 1, *truth.shape[1:], generator=torch.Generator().manual_seed(0))
    slab = torch.empty(args.classes, rows, *truth.shape[1:])
    for start in range(0, len(truth), rows):
        part = slab[:, : len(truth[start : start + rows])]
        part.copy_(noise)
        part.scatter_add_(0, truth[None, start : start + rows].long(), torch.ones(()).expand(1, *part.shape[1:]) * 3)
        yield part


def of_windows(truth, args):
    """The stream of a network that repeats the image in all of its channels, plus the class that the voxel has."""
    import torch
    from torch import nn

    from unetkit.infer.forward import WindowSettings
    from unetkit.infer.sliding import window_slabs

    class Truth(nn.Module):
        def forward(self, x):
            numbers = torch.arange(args.classes, dtype=x.dtype).view(1, -1, 1, 1, 1)
            return (numbers == x).float()

    def stream(axis, band):
        box = [slice(0, n) for n in args.src]
        if band is not None:
            box[band.axis] = band.region
        image = truth[None].float()
        return window_slabs(Truth(), image, args.windows, args.classes, WindowSettings(), axis=axis, region=tuple(box))

    return stream


if __name__ == "__main__":
    main()
