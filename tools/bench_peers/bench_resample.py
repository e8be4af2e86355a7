"""Bring soft-max scores from the network grid to the image grid, and take the arg-max.

Every contender ends with a uint8 label map (that is what a user waits for); the columns add the agreement of
that map with the reference's map and with the label map that the scores were made from.
"""

from __future__ import annotations

import common
import numpy as np
from synthetic import label_volume, soft_scores


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--src", type=common.shape3, default=(100, 160, 160))
    p.add_argument("--dst", type=common.shape3, default=(200, 320, 320))
    p.add_argument("--classes", type=int, default=14, help="including background")
    p.add_argument("--slab", type=int, default=16, help="slices per step of the fused contenders")
    args = p.parse_args()
    if args.keep_heap:
        common.keep_heap()
    import torch
    import torch.nn.functional as F

    if args.threads:
        torch.set_num_threads(args.threads)
    fine = label_volume(args.dst, args.classes - 1, args.seed)
    ratio = [d / s for s, d in zip(args.src, args.dst, strict=False)]
    coarse = soft_scores(_shrink(fine, args.classes, args.src), args.classes, 0.7)
    src_spacing = tuple(ratio)
    dst_spacing = (1.0, 1.0, 1.0)
    dst = tuple(args.dst)

    c = common.Contenders()

    @c.add("nnunet default (skimage, order 1)")
    def _nn():
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

        def call():
            r = resample_data_or_seg_to_shape(
                coarse, dst, src_spacing, dst_spacing, is_seg=False, order=1, order_z=0, force_separate_z=None
            )
            return torch.from_numpy(np.ascontiguousarray(r)).argmax(0).to(torch.uint8).numpy()

        return call

    @c.add("nnunet torch variant")
    def _nnt():
        from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

        def call():
            r = resample_torch_fornnunet(
                torch.from_numpy(coarse),
                dst,
                src_spacing,
                dst_spacing,
                is_seg=False,
                num_threads=torch.get_num_threads(),
            )
            return r.argmax(0).to(torch.uint8).numpy()

        return call

    @c.add("scipy.ndimage.zoom order 1 per class")
    def _zoom():
        from scipy import ndimage as ndi

        def call():
            out = np.empty((args.classes, *dst), np.float32)
            for k in range(args.classes):
                ndi.zoom(coarse[k], ratio, output=out[k], order=1, grid_mode=True, mode="nearest")
            return out.argmax(0).astype(np.uint8)

        return call

    @c.add("scipy.ndimage.zoom order 3 per class")
    def _zoom3():
        from scipy import ndimage as ndi

        def call():
            out = np.empty((args.classes, *dst), np.float32)
            for k in range(args.classes):
                ndi.zoom(coarse[k], ratio, output=out[k], order=3, grid_mode=True, mode="nearest")
            return out.argmax(0).astype(np.uint8)

        return call

    @c.add("torch interpolate, all classes")
    def _ti():
        def call():
            r = F.interpolate(torch.from_numpy(coarse)[None], dst, mode="trilinear")[0]
            return r.argmax(0).to(torch.uint8).numpy()

        return call

    @c.add("torch interpolate, running max per class")
    def _trm():
        def call():
            x = torch.from_numpy(coarse)
            best = torch.full(dst, -1.0)
            lab = torch.zeros(dst, dtype=torch.uint8)
            for k in range(args.classes):
                r = F.interpolate(x[k][None, None], dst, mode="trilinear")[0, 0]
                lab.masked_fill_(r > best, k)
                torch.maximum(best, r, out=best)
            return lab.numpy()

        return call

    @c.add("torch slabs, argmax fused")
    def _slab():
        def call():
            return slabs(torch.from_numpy(coarse), dst, args.slab).numpy()

        return call

    @c.add("torch slabs + skip of single-class cells")
    def _skip():
        def call():
            return sure_cells(torch.from_numpy(coarse), dst, args.slab).numpy()

        return call

    @c.add("torch slabs, bf16 scores")
    def _slabh():
        h = torch.from_numpy(coarse).to(torch.bfloat16)
        return lambda: slabs(h, dst, args.slab).numpy()

    @c.add("argmax first, nearest labels")
    def _near():
        def call():
            lab = torch.from_numpy(coarse).argmax(0).to(torch.uint8)
            return F.interpolate(lab[None, None], dst, mode="nearest-exact")[0, 0].numpy()

        return call

    @c.add("unetkit")
    def _unetkit():
        from unetkit.data.preprocess import Geometry
        from unetkit.data.restore import LabelMap
        from unetkit.plan import Normalization, Plan
        from unetkit.types import Labels

        names = tuple(str(k) for k in range(1, args.classes))
        labels = Labels(names, tuple((k,) for k in range(1, args.classes)))
        plan = Plan(tuple(args.src), 1, ("image",), labels, (Normalization("none"),))
        axes = (0, 1, 2)
        box = tuple((0, n) for n in dst)
        geometry = Geometry(dst, dst_spacing, axes, (False,) * 3, box, tuple(args.src), src_spacing)
        scores = torch.from_numpy(coarse)

        def call():
            made = LabelMap(geometry, plan)
            writer = made.writer()
            for slab in scores.split(args.slab, 1):
                writer.add(slab)
            return made.result[0]

        return call

    ready, skipped = c.build(common.wanted(args))
    stats, out, failed = common.run(ready, args.repeats, args.warmup, args.budget)
    ref = args.reference or "nnunet default (skimage, order 1)"
    extra = {}
    for n, lab in out.items():
        row = {
            "mean Dice vs source": _mean_dice(lab, fine, args.classes),
            "min Dice vs source": _mean_dice(lab, fine, args.classes, worst=True),
        }
        if ref in out:
            row["voxels differing %"] = float((lab != out[ref]).mean() * 100)
        extra[n] = row
    common.report(
        f"{args.classes} score maps {args.src} -> {args.dst}, then arg-max",
        stats,
        ref,
        extra,
        skipped | failed,
        vars(args),
        args.json,
    )


def slabs(scores, dst, step):
    """Linear resampling one group of output slices at a time; only the input slices it needs are touched."""
    import torch
    import torch.nn.functional as F

    depth_in, depth_out = scores.shape[1], dst[0]
    lab = torch.empty(dst, dtype=torch.uint8)
    scale = depth_in / depth_out
    pos = ((torch.arange(depth_out, dtype=torch.float32) + 0.5) * scale - 0.5).clamp_(0, depth_in - 1)
    lo = pos.floor().long()
    hi = (lo + 1).clamp_(max=depth_in - 1)
    w = (pos - lo).to(torch.float32)
    for a in range(0, depth_out, step):
        b = min(depth_out, a + step)
        first, last = int(lo[a]), int(hi[b - 1])
        planes = F.interpolate(scores[:, first : last + 1].movedim(1, 0).float(), dst[1:], mode="bilinear")
        for z in range(a, b):
            one = torch.lerp(planes[lo[z] - first], planes[hi[z] - first], w[z])
            lab[z] = one.argmax(0).to(torch.uint8)
    return lab


def sure_cells(scores, dst, step, threshold=0.0):
    """Same result as `slabs`: where a cell's 2x2x2 corners agree on the winner, linear weights cannot change it.

    (A convex mix of vectors that all have class k as their largest entry has class k as its largest entry.)
    So only cells with disagreeing corners are interpolated, gathered as a list of points.
    """
    import torch
    import torch.nn.functional as F

    d_in, dev = scores.shape[1:], scores.device
    win = scores.argmax(0).to(torch.uint8)
    lo, hi, w = [], [], []
    for n_in, n_out in zip(d_in, dst, strict=False):
        pos = ((torch.arange(n_out, dtype=torch.float32, device=dev) + 0.5) * (n_in / n_out) - 0.5).clamp_(0, n_in - 1)
        f = pos.floor().long()
        lo.append(f)
        hi.append((f + 1).clamp_(max=n_in - 1))
        w.append(pos - f)
    big = win[None, None].to(torch.float16) if win.is_cuda else win[None, None].float()
    padded = F.pad(big, (0, 1, 0, 1, 0, 1), mode="replicate")
    top = F.max_pool3d(padded, 2, 1)[0, 0]
    low = -F.max_pool3d(-padded, 2, 1)[0, 0]
    mixed = top != low
    lab = win[lo[0]][:, lo[1]][:, :, lo[2]].contiguous()
    todo = mixed[lo[0]][:, lo[1]][:, :, lo[2]].nonzero()
    flat = scores.reshape(scores.shape[0], -1)
    sy, sx = d_in[1] * d_in[2], d_in[2]
    out_flat = lab.view(-1)
    for part in todo.split(1 << 18):
        z, y, x = part.unbind(1)
        acc = None
        for az, wz in ((lo[0][z], 1 - w[0][z]), (hi[0][z], w[0][z])):
            for ay, wy in ((lo[1][y], 1 - w[1][y]), (hi[1][y], w[1][y])):
                for ax, wx in ((lo[2][x], 1 - w[2][x]), (hi[2][x], w[2][x])):
                    term = flat[:, az * sy + ay * sx + ax].float() * (wz * wy * wx)
                    acc = term if acc is None else acc.add_(term)
        out_flat[(z * dst[1] + y) * dst[2] + x] = acc.argmax(0).to(torch.uint8)
    return lab


def _shrink(labels, classes, shape):
    """Majority label per coarse cell (block mean of one-hot maps)."""
    import torch
    import torch.nn.functional as F

    best = torch.full(shape, -1.0)
    lab = torch.zeros(shape, dtype=torch.uint8)
    x = torch.from_numpy(labels)
    for k in range(classes):
        r = F.adaptive_avg_pool3d((x == k).float()[None, None], shape)[0, 0]
        lab[r > best] = k
        best = torch.maximum(best, r)
    return lab.numpy()


def _mean_dice(a, b, classes, worst=False):
    d = []
    for k in range(1, classes):
        x, y = a == k, b == k
        s = x.sum() + y.sum()
        if s:
            d.append(2 * float((x & y).sum()) / float(s))
    return float(min(d) if worst else np.mean(d))


if __name__ == "__main__":
    main()
