"""Patches per second out of a preprocessed data set: nnU-Net's loader + default augmentation, MONAI, lean torch.

Every contender makes one batch per call in one process. The data set is synthetic and written once to a scratch
folder in the layout each library likes best (Blosc2 for nnU-Net, arrays in memory for MONAI, its store for unetkit,
.npy maps for the rest).
"""

from __future__ import annotations

import math
import os
import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import common
import numpy as np
from synthetic import label_volume


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--volume", type=common.shape3, default=(160, 224, 224))
    p.add_argument("--patch", type=common.shape3, default=(128, 128, 128))
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--cases", type=int, default=4)
    p.add_argument("--classes", type=int, default=4)
    p.add_argument("--device", default="cpu", help="where the lean batched augmentation runs")
    p.add_argument("--scratch", default="", help="folder for the synthetic data set (default: a temporary one)")
    args = p.parse_args()
    if args.keep_heap:
        common.keep_heap()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    patch = list(args.patch)
    with tempfile.TemporaryDirectory(dir=args.scratch or None) as root:
        cases = make_cases(args, root)
        c = common.Contenders()

        def nnunet(augment: bool):
            def factory():
                os.environ.setdefault("nnUNet_raw", root)
                os.environ.setdefault("nnUNet_preprocessed", root)
                os.environ.setdefault("nnUNet_results", root)
                from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
                from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
                from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
                from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

                folder = os.path.join(root, "blosc2")
                if not os.path.isdir(folder):
                    os.makedirs(folder)
                    for k, (img, lab, locs) in enumerate(cases):
                        shape = (1, *img.shape)
                        blocks, chunks = comp_blosc2_params(shape, patch, 4)
                        sb, sc = comp_blosc2_params(shape, patch, 1)
                        nnUNetDatasetBlosc2.save_case(
                            np.array(img)[None],
                            np.array(lab)[None].astype(np.int8),
                            {"class_locations": {c_: np.c_[np.zeros(len(v), int), v] for c_, v in locs.items()}},
                            os.path.join(folder, f"case_{k:03d}"),
                            chunks=chunks,
                            blocks=blocks,
                            chunks_seg=sc,
                            blocks_seg=sb,
                        )
                rot = (-math.pi / 6, math.pi / 6)
                big = get_patch_size(patch, rot, rot, rot, (0.85, 1.25))
                lm = SimpleNamespace(all_labels=list(range(args.classes)), has_ignore_label=False)
                tf = nnUNetTrainer.get_training_transforms(patch, rot, None, (0, 1, 2), False) if augment else None
                dl = nnUNetDataLoader(
                    nnUNetDatasetBlosc2(folder),
                    args.batch,
                    big if augment else patch,
                    patch,
                    lm,
                    oversample_foreground_percent=0.33,
                    transforms=tf,
                )
                return lambda: next(dl)

            return factory

        c.add("nnunet loader, no augmentation")(nnunet(False))
        c.add("nnunet loader + default augmentation")(nnunet(True))

        def monai(augment: bool, lazy: bool = False):
            def factory():
                from monai import transforms as T
                from monai.data import MetaTensor

                data = [
                    {
                        "image": MetaTensor(torch.from_numpy(np.array(i)[None])),
                        "label": MetaTensor(torch.from_numpy(np.array(s)[None])),
                    }
                    for i, s, _ in cases
                ]
                both = ["image", "label"]
                index = T.FgBgToIndicesd("label")
                data = [index(d) for d in data]
                steps = [
                    T.RandCropByPosNegLabeld(
                        both,
                        "label",
                        patch,
                        pos=1,
                        neg=2,
                        num_samples=1,
                        fg_indices_key="label_fg_indices",
                        bg_indices_key="label_bg_indices",
                        allow_smaller=False,
                    )
                ]
                if augment:
                    r = math.pi / 6
                    steps += [
                        T.RandAffined(
                            both,
                            prob=0.36,
                            rotate_range=(r, r, r),
                            scale_range=(0.3, 0.3, 0.3),
                            mode=("bilinear", "nearest"),
                            padding_mode="zeros",
                            cache_grid=True,
                        ),
                        *[T.RandFlipd(both, prob=0.5, spatial_axis=a) for a in range(3)],
                        T.RandGaussianNoised("image", prob=0.1, std=0.3),
                        T.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
                        T.RandScaleIntensityd("image", factors=0.25, prob=0.15),
                        T.RandScaleIntensityFixedMeand("image", factors=0.25, prob=0.15, preserve_range=True),
                        T.RandSimulateLowResolutiond("image", prob=0.125, zoom_range=(0.5, 1.0)),
                        T.RandAdjustContrastd(
                            "image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True
                        ),
                        T.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                    ]
                pipe = T.Compose(steps, lazy=lazy)

                def call():
                    out = []
                    for _ in range(args.batch):
                        d = pipe(data[np.random.randint(len(data))])
                        out.append(d[0] if isinstance(d, list) else d)
                    return (
                        torch.stack([o["image"].as_tensor() for o in out]),
                        torch.stack([o["label"].as_tensor() for o in out]),
                    )

                return call

            return factory

        c.add("monai crop, no augmentation")(monai(False))
        c.add("monai + comparable augmentation")(monai(True))
        c.add("monai + comparable augmentation, lazy")(monai(True, True))

        def lean(augment: bool, dtype=torch.float32):
            def factory():
                dev = torch.device(args.device)
                rng = np.random.default_rng(args.seed)

                def crop():
                    im, se = [], []
                    for j in range(args.batch):
                        img, lab, locs = cases[rng.integers(len(cases))]
                        hi = np.array(img.shape) - patch
                        if j >= round(args.batch * 0.67):
                            pts = locs[list(locs)[rng.integers(len(locs))]]
                            at = np.clip(pts[rng.integers(len(pts))] - np.array(patch) // 2, 0, hi)
                        else:
                            at = [int(rng.integers(h + 1)) for h in hi]
                        w = tuple(slice(int(a), int(a) + k) for a, k in zip(at, patch, strict=False))
                        im.append(torch.from_numpy(np.ascontiguousarray(img[w])))
                        se.append(torch.from_numpy(np.ascontiguousarray(lab[w])))
                    return torch.stack(im)[:, None].to(dev, dtype), torch.stack(se)[:, None].to(dev)

                def call():
                    x, y = crop()
                    if augment:
                        x, y = batched_augment(x, y, rng)
                    if dev.type == "cuda":
                        torch.cuda.synchronize()
                    return x, y

                return call

            return factory

        c.add("lean memory map, no augmentation")(lean(False))
        c.add("lean memory map + batched torch augmentation")(lean(True))
        if args.device != "cpu":
            c.add("lean memory map + batched torch augmentation, fp16")(lean(True, torch.float16))

        c.add("unetkit store, no augmentation")(lambda: unetkit_cuts(unetkit_loader(cases, patch, args, root)))
        c.add("unetkit")(lambda: partial(next, unetkit_loader(cases, patch, args, root).batches(0)))

        ready, skipped = c.build(common.wanted(args))
        stats, _, failed = common.run(ready, args.repeats, max(2, args.warmup), args.budget)
        extra = {n: {"patches/s": args.batch / s["median_s"], "mean CPU s": s["cpu_mean_s"]} for n, s in stats.items()}
        common.report(
            f"{args.batch} x {tuple(patch)} from {tuple(args.volume)}, one process",
            stats,
            args.reference or "nnunet loader + default augmentation",
            extra,
            skipped | failed,
            vars(args),
            args.json,
        )


def unetkit_loader(cases, patch, args, root):
    """unetkit's loader with its default augmentation, cases in a store on disk, no worker process."""
    from unetkit.data.loader import LazyCases, TrainingLoader
    from unetkit.data.store import open_store
    from unetkit.plan import Normalization, Plan
    from unetkit.recipe import resolve
    from unetkit.types import Case, Labels

    names = tuple(str(k) for k in range(1, args.classes))
    labels = Labels(names, tuple((k,) for k in range(1, args.classes)))
    plan = Plan(tuple(patch), args.batch, ("image",), labels, (Normalization("zscore"),), mirror_axes=(0, 1, 2))
    store, stored = open_store(Path(root) / "store"), {}
    for k, (image, label, _) in enumerate(cases):
        paths = Path(root) / f"case_{k}.npz", Path(root) / f"case_{k}_label.npz"
        np.savez(paths[0], image=image)
        np.savez(paths[1], label=label)
        case = Case(f"case_{k}", paths[:1], paths[1])
        stored[case.id] = store.add(case, plan, store.names(case, plan))
    lazy = LazyCases(list(stored), lambda name: stored[name].open(), keep=32, ready=True)
    recipe = resolve(["train.workers=0", "train.steps_per_epoch=1000000"]).recipe
    return TrainingLoader(lazy, plan, recipe, args.device)


def unetkit_cuts(loader):
    """Choose and cut the patches of a batch, as nnU-Net's loader does without transforms."""
    import torch

    from unetkit.data.sampling import cut

    sampler, steps = loader.sampler, count()

    def call():
        step, found = next(steps), []
        for index in range(sampler.rule.batch_size):
            patch = sampler.draw(step, index)
            found.append(cut(sampler.cases[patch.case], patch, patch.start, sampler.rule.patch_size))
        return [torch.stack([torch.from_numpy(sample[part]) for sample in found]) for part in range(2)]

    return call


def batched_augment(x, y, rng):
    """nnU-Net's augmentation list and probabilities, decided per sample, computed on the sub-batch that needs it."""
    import torch
    import torch.nn.functional as F

    b = x.shape[0]

    def chosen(prob):
        return np.flatnonzero(rng.random(b) < prob)

    rot, sca = rng.random(b) < 0.2, rng.random(b) < 0.2
    idx = np.flatnonzero(rot | sca)
    if len(idx):
        theta = torch.zeros(len(idx), 3, 4, device=x.device)
        for j, i in enumerate(idx):
            m = np.eye(3)
            if rot[i]:
                for ax in range(3):
                    a = rng.uniform(-math.pi / 6, math.pi / 6)
                    r = np.eye(3)
                    u, v = [k for k in range(3) if k != ax]
                    r[u, u] = r[v, v] = math.cos(a)
                    r[u, v], r[v, u] = -math.sin(a), math.sin(a)
                    m = m @ r
            if sca[i]:
                m = m / rng.uniform(0.7, 1.4)
            theta[j, :, :3] = torch.from_numpy(m)
        g = F.affine_grid(theta, [len(idx), 1, *x.shape[2:]], align_corners=False).to(x.dtype)
        x[idx] = F.grid_sample(x[idx], g, mode="bilinear", padding_mode="zeros", align_corners=False)
        y[idx] = F.grid_sample(y[idx].to(x.dtype), g, mode="nearest", align_corners=False).to(y.dtype)
    i = chosen(0.1)
    if len(i):
        x[i] += torch.randn_like(x[i]) * math.sqrt(rng.uniform(0, 0.1))
    i = chosen(0.1)
    if len(i):
        t = x[i]
        for ax in range(3):
            s = rng.uniform(0.5, 1.0)
            r = 3
            k = torch.exp(-0.5 * (torch.arange(-r, r + 1, device=x.device) / s) ** 2)
            k = (k / k.sum()).to(x.dtype)
            shape = [1, 1, 1, 1, 1]
            shape[2 + ax] = 2 * r + 1
            pad = [0, 0, 0]
            pad[ax] = r
            t = F.conv3d(t, k.view(shape), padding=tuple(pad))
        x[i] = t
    i = chosen(0.15)
    if len(i):
        x[i] *= rng.uniform(0.75, 1.25)
    i = chosen(0.15)
    if len(i):
        t = x[i]
        mu = t.mean((2, 3, 4), keepdim=True)
        lo, hi = t.amin((2, 3, 4), keepdim=True), t.amax((2, 3, 4), keepdim=True)
        x[i] = torch.clamp((t - mu) * rng.uniform(0.75, 1.25) + mu, lo, hi)
    i = chosen(0.125)
    if len(i):
        z = rng.uniform(0.5, 1.0)
        small = F.interpolate(x[i], [max(1, int(n * z)) for n in x.shape[2:]], mode="nearest-exact")
        x[i] = F.interpolate(small, x.shape[2:], mode="trilinear")
    for prob, invert in ((0.1, True), (0.3, False)):
        i = chosen(prob)
        if len(i):
            t = -x[i] if invert else x[i]
            mu, sd = t.mean((2, 3, 4), keepdim=True), t.std((2, 3, 4), keepdim=True)
            lo, hi = t.amin((2, 3, 4), keepdim=True), t.amax((2, 3, 4), keepdim=True)
            t = ((t - lo) / (hi - lo + 1e-5)) ** rng.uniform(0.7, 1.5) * (hi - lo) + lo
            t = (t - t.mean((2, 3, 4), keepdim=True)) / t.std((2, 3, 4), keepdim=True).clamp_min(1e-5) * sd + mu
            x[i] = -t if invert else t
    for ax in range(3):
        i = chosen(0.5)
        if len(i):
            x[i], y[i] = x[i].flip(2 + ax), y[i].flip(2 + ax)
    return x, y


def make_cases(args, root):
    cases = []
    rng = np.random.default_rng(args.seed)
    for k in range(args.cases):
        lab = label_volume(args.volume, args.classes - 1, args.seed + k)
        img = (rng.standard_normal(args.volume, dtype=np.float32) * 0.3 + lab).astype(np.float32)
        np.save(os.path.join(root, f"i{k}.npy"), img)
        np.save(os.path.join(root, f"s{k}.npy"), lab)
        locs = {}
        for c in range(1, args.classes):
            pts = np.argwhere(lab == c)
            if len(pts):
                locs[c] = pts[rng.choice(len(pts), min(10000, len(pts)), replace=False)]
        cases.append(
            (
                np.load(os.path.join(root, f"i{k}.npy"), mmap_mode="r"),
                np.load(os.path.join(root, f"s{k}.npy"), mmap_mode="r"),
                locs,
            )
        )
    return cases


if __name__ == "__main__":
    main()
