"""Dice + HD95 + NSD of a multi-label volume: MONAI, surface-distance, MedPy, seg-metrics, own EDT/KD-tree.

Every contender returns {label: {"dice":, "hd95":, "nsd":}} (a missing key: the library has no such metric).
The printed columns give the largest difference from the area-weighted surface-distance values, because the
libraries do not mean the same thing by "HD95" and "surface".
"""

from __future__ import annotations

import common
import numpy as np
from synthetic import flawed_copy, label_volume


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--shape", type=common.shape3, default=(200, 256, 256))
    p.add_argument("--classes", type=int, default=13)
    p.add_argument("--spacing", default="2.0,0.8,0.8")
    p.add_argument("--tolerance", type=float, default=2.0, help="NSD tolerance in mm")
    p.add_argument("--gt", default="", help="NIfTI/NPY label map instead of a synthetic one")
    p.add_argument("--pred", default="")
    args = p.parse_args()
    if args.keep_heap:
        common.keep_heap()
    spacing = tuple(float(x) for x in args.spacing.split(","))
    if args.gt:
        gt, spacing = _load(args.gt, spacing)
        pred, _ = _load(args.pred, spacing)
    else:
        gt = label_volume(args.shape, args.classes, args.seed)
        pred = flawed_copy(gt, args.seed + 1)
    labels = [int(x) for x in np.unique(gt) if x]
    tol = args.tolerance
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)

    c = common.Contenders()

    @c.add("monai")
    def _monai():
        import torch
        from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

        def call():
            n = max(labels) + 1
            p1 = torch.nn.functional.one_hot(torch.from_numpy(pred).long(), n).movedim(-1, 0)[None]
            g1 = torch.nn.functional.one_hot(torch.from_numpy(gt).long(), n).movedim(-1, 0)[None]
            d = compute_dice(p1, g1, include_background=False)[0]
            h = compute_hausdorff_distance(p1, g1, include_background=False, percentile=95, spacing=spacing)[0]
            s = compute_surface_dice(p1, g1, [tol] * (n - 1), include_background=False, spacing=spacing)[0]
            return {k: {"dice": float(d[k - 1]), "hd95": float(h[k - 1]), "nsd": float(s[k - 1])} for k in labels}

        return call

    @c.add("surface-distance")
    def _sd():
        import surface_distance as sd

        def call():
            res = {}
            for k in labels:
                g, q = gt == k, pred == k
                m = sd.compute_surface_distances(g, q, spacing)
                res[k] = {
                    "dice": float(sd.compute_dice_coefficient(g, q)),
                    "hd95": float(sd.compute_robust_hausdorff(m, 95)),
                    "nsd": float(sd.compute_surface_dice_at_tolerance(m, tol)),
                }
            return res

        return call

    @c.add("medpy (no NSD)")
    def _medpy():
        from medpy.metric import binary

        def call():
            return {
                k: {
                    "dice": float(binary.dc(pred == k, gt == k)),
                    "hd95": float(binary.hd95(pred == k, gt == k, voxelspacing=spacing)),
                }
                for k in labels
            }

        return call

    @c.add("seg-metrics (no NSD)")
    def _segm():
        import SimpleITK as sitk  # noqa: F401
        from seg_metrics import seg_metrics as sg

        def call():
            r = sg.write_metrics(
                labels=labels,
                gdth_img=gt,
                pred_img=pred,
                csv_file=None,
                spacing=np.array(spacing),
                metrics=["dice", "hd95"],
                verbose=False,
            )
            r = r[0] if isinstance(r, list) else r
            return {k: {"dice": float(r["dice"][i]), "hd95": float(r["hd95"][i])} for i, k in enumerate(labels)}

        return call

    def boxes():
        from scipy import ndimage as ndi

        a, b = ndi.find_objects(gt, max(labels)), ndi.find_objects(pred, max(labels))
        for k in labels:
            one, two = a[k - 1], b[k - 1]
            if one is None or two is None:
                yield k, None
                continue
            yield (
                k,
                tuple(
                    slice(max(0, min(s.start, t.start) - 1), min(n, max(s.stop, t.stop) + 1))
                    for s, t, n in zip(one, two, gt.shape, strict=False)
                ),
            )

    def border(m: np.ndarray) -> np.ndarray:
        inner = m.copy()
        for ax in range(m.ndim):
            lo = [slice(None)] * m.ndim
            hi = [slice(None)] * m.ndim
            lo[ax], hi[ax] = slice(1, None), slice(None, -1)
            inner[tuple(lo)] &= m[tuple(hi)]
            inner[tuple(hi)] &= m[tuple(lo)]
            edge = [slice(None)] * m.ndim
            for e in (0, -1):
                edge[ax] = e
                inner[tuple(edge)] = False
        return m & ~inner

    def summarise(dice, ab, ba):
        return {
            "dice": dice,
            "hd95": float(max(np.percentile(ab, 95), np.percentile(ba, 95))),
            "nsd": float(((ab <= tol).sum() + (ba <= tol).sum()) / (ab.size + ba.size)),
        }

    @c.add("crop + edt package")
    def _edt():
        import edt

        def call():
            res = {}
            for k, box in boxes():
                if box is None:
                    continue
                g, q = gt[box] == k, pred[box] == k
                bg, bq = border(g), border(q)
                dg = edt.edt(~bg, anisotropy=spacing, parallel=max(1, args.threads))
                dq = edt.edt(~bq, anisotropy=spacing, parallel=max(1, args.threads))
                res[k] = summarise(2 * float((g & q).sum()) / float(g.sum() + q.sum()), dg[bq], dq[bg])
            return res

        return call

    @c.add("crop + scipy edt")
    def _scipy_edt():
        from scipy import ndimage as ndi

        def call():
            res = {}
            for k, box in boxes():
                if box is None:
                    continue
                g, q = gt[box] == k, pred[box] == k
                bg, bq = border(g), border(q)
                dg = ndi.distance_transform_edt(~bg, sampling=spacing)
                dq = ndi.distance_transform_edt(~bq, sampling=spacing)
                res[k] = summarise(2 * float((g & q).sum()) / float(g.sum() + q.sum()), dg[bq], dq[bg])
            return res

        return call

    def kd(build):
        def call():
            res = {}
            for k, box in boxes():
                if box is None:
                    continue
                g, q = gt[box] == k, pred[box] == k
                pg = np.argwhere(border(g)).astype(np.float32) * np.float32(spacing)
                pq = np.argwhere(border(q)).astype(np.float32) * np.float32(spacing)
                res[k] = summarise(2 * float((g & q).sum()) / float(g.sum() + q.sum()), build(pg, pq), build(pq, pg))
            return res

        return call

    @c.add("crop + scipy KD-tree")
    def _kd():
        from scipy.spatial import cKDTree

        return kd(lambda ref, pts: cKDTree(ref).query(pts, workers=max(1, args.threads))[0])

    @c.add("crop + pykdtree")
    def _pykd():
        from pykdtree.kdtree import KDTree

        return kd(lambda ref, pts: KDTree(ref).query(pts)[0])

    @c.add("unetkit")
    def _unetkit():
        from unetkit.metrics import evaluate_case
        from unetkit.recipe import EvaluateSection
        from unetkit.types import Labels

        names = tuple(str(k) for k in labels)
        meaning = Labels(classes=names, values=tuple((k,) for k in labels))
        lookup = np.zeros(256, np.uint8)
        lookup[labels] = np.arange(1, len(labels) + 1)
        rules = EvaluateSection(tolerance_mm=tol)

        def call():
            rows = evaluate_case(lookup[pred][None], lookup[gt][None], meaning, spacing, rules, workers=args.threads)
            return {k: {m: rows[str(k)][m] for m in ("dice", "hd95", "nsd")} for k in labels}

        return call

    ready, skipped = c.build(common.wanted(args))
    stats, out, failed = common.run(ready, args.repeats, args.warmup, args.budget)
    skipped |= failed
    base = out.get("surface-distance")
    extra = {}
    if base:
        for n, r in out.items():
            if not isinstance(r, dict):
                continue
            row = {}
            for key in ("dice", "hd95", "nsd"):
                diffs = [abs(r[k][key] - base[k][key]) for k in base if k in r and key in r[k]]
                if diffs:
                    row[f"max |d {key}|"] = float(max(diffs))
                    row[f"mean {key}"] = float(np.mean([r[k][key] for k in base if k in r]))
            extra[n] = row
    common.report(
        f"Dice + HD95 + NSD, {gt.shape}, {len(labels)} labels, spacing {spacing}",
        stats,
        args.reference or "monai",
        extra,
        skipped,
        vars(args),
        args.json,
    )


def _load(path: str, spacing):
    if path.endswith(".npy"):
        return np.load(path), spacing
    import nibabel as nib

    img = nib.load(path)
    return np.asanyarray(img.dataobj).astype(np.uint8), tuple(float(x) for x in img.header.get_zooms()[:3])


if __name__ == "__main__":
    main()
