"""Sliding-window inference of one small 3-D U-Net: nnU-Net's predictor, MONAI's function, and leaner loops.

All contenders use the same network object, the same window, half overlap, a Gaussian weight and no mirroring.
"""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import common


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--volume", type=common.shape3, default=(160, 160, 160))
    p.add_argument("--patch", type=common.shape3, default=(96, 96, 96))
    p.add_argument("--classes", type=int, default=14)
    p.add_argument("--features", default="16,32,64,128")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    if args.keep_heap:
        common.keep_heap()
    import torch
    import torch.nn.functional as F  # noqa: F401
    from torch import nn

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    feats = [int(x) for x in args.features.split(",")]
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    dev = torch.device(args.device)
    net = (
        PlainConvUNet(
            1,
            len(feats),
            feats,
            nn.Conv3d,
            3,
            [1] + [2] * (len(feats) - 1),
            2,
            args.classes,
            2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=False,
        )
        .eval()
        .to(dev)
    )
    x = torch.randn(1, 1, *args.volume)
    patch = tuple(args.patch)
    steps = [_starts(n, k) for n, k in zip(args.volume, patch, strict=False)]
    corners = list(itertools.product(*steps))
    weight = _gauss(patch).to(dev)

    def sync():
        if dev.type == "cuda":
            torch.cuda.synchronize()

    c = common.Contenders()

    @c.add("network alone (same number of windows)")
    def _net():
        one = x[:, :, : patch[0], : patch[1], : patch[2]].contiguous().to(dev)

        def call():
            with torch.inference_mode():
                for _ in corners:
                    y = net(one)
            sync()
            return y

        return call

    @c.add("nnunet predictor")
    def _nn():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        pr = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=True,
            device=dev,
            verbose=False,
            allow_tqdm=False,
        )
        pr.network = net
        pr.configuration_manager = SimpleNamespace(patch_size=list(patch))
        pr.label_manager = SimpleNamespace(num_segmentation_heads=args.classes)
        pr.allowed_mirroring_axes = None

        def call():
            y = pr.predict_sliding_window_return_logits(x[0])
            sync()
            return y.float()

        return call

    def monai(batch):
        def factory():
            from monai.inferers import sliding_window_inference

            def call():
                with torch.inference_mode():
                    y = sliding_window_inference(
                        x.to(dev),
                        patch,
                        batch,
                        net,
                        overlap=0.5,
                        mode="gaussian",
                        sigma_scale=0.125,
                        sw_device=dev,
                        device=dev,
                    )
                sync()
                return y[0].float()

            return call

        return factory

    c.add("monai, batch 1")(monai(1))
    c.add("monai, batch 4")(monai(4))

    def lean(batch=1, dtype=None, channels_last=False, acc=torch.float32, model=None):
        def factory():
            m = model() if model else net
            if channels_last:
                import copy

                m = copy.deepcopy(m).to(memory_format=torch.channels_last_3d)

            def call():
                vol = x.to(dev)
                out = torch.zeros((args.classes, *args.volume), dtype=acc, device=dev)
                cnt = torch.zeros(args.volume, dtype=torch.float32, device=dev)
                wq = weight.to(acc)
                with (
                    torch.inference_mode(),
                    torch.autocast(dev.type, dtype or torch.bfloat16, enabled=dtype is not None),
                ):
                    for i in range(0, len(corners), batch):
                        group = corners[i : i + batch]
                        w = [tuple(slice(s, s + k) for s, k in zip(co, patch, strict=False)) for co in group]
                        b = torch.cat([vol[(slice(None), slice(None), *s)] for s in w])
                        if channels_last:
                            b = b.contiguous(memory_format=torch.channels_last_3d)
                        y = m(b)
                        for s, one in zip(w, y, strict=False):
                            out[(slice(None), *s)].addcmul_(one.to(acc), wq)
                            cnt[s].add_(weight)
                out.div_(cnt.to(acc))
                sync()
                return out.float()

            return call

        return factory

    c.add("lean loop, fp32")(lean())
    c.add("lean loop, fp32, channels_last_3d")(lean(channels_last=True))
    c.add("lean loop, bf16 autocast")(lean(dtype=torch.bfloat16))
    c.add("lean loop, bf16 + channels_last_3d")(lean(dtype=torch.bfloat16, channels_last=True))
    c.add("lean loop, bf16 + channels_last_3d, fp16 sums")(
        lean(dtype=torch.bfloat16, channels_last=True, acc=torch.float16)
    )
    if dev.type == "cuda":
        c.add("lean loop, fp16 + channels_last_3d")(lean(dtype=torch.float16, channels_last=True))
        c.add("lean loop, fp16, batch 4")(lean(dtype=torch.float16, batch=4))

    def grouped():
        import copy

        return common.as_group_norm(copy.deepcopy(net))

    c.add("lean loop, fp32, GroupNorm(C)")(lean(model=grouped))
    c.add("lean loop, bf16 + channels_last_3d, GroupNorm(C)")(
        lean(dtype=torch.bfloat16, channels_last=True, model=grouped)
    )

    def compiled():
        return torch.compile(net, dynamic=False)

    c.add("lean loop, torch.compile fp32")(lean(model=compiled))
    c.add("lean loop, torch.compile bf16")(lean(model=compiled, dtype=torch.bfloat16))

    @c.add("unetkit")
    def _unetkit():
        from unetkit.blocks.inference import optimise_for_inference
        from unetkit.infer.device import pick_compute
        from unetkit.infer.sliding import WindowSettings, sliding_window

        compute = pick_compute(dev, "auto")
        mine = optimise_for_inference(copy.deepcopy(net), dev)
        if compute.channels_last:
            mine = mine.to(memory_format=torch.channels_last_3d)
        settings = WindowSettings(0.5, dtype=compute.dtype, channels_last=compute.channels_last)

        def call():
            with torch.inference_mode():
                y = sliding_window(mine, x[0].to(dev), patch, args.classes, settings)
            sync()
            return y.float()

        return call

    ready, skipped = c.build(common.wanted(args))
    stats, out, failed = common.run(ready, args.repeats, args.warmup, args.budget)
    ref = args.reference or "nnunet predictor"
    extra = {}
    base = out.get("lean loop, fp32")
    for n, y in out.items():
        if base is not None and isinstance(y, torch.Tensor) and y.shape == base.shape:
            extra[n] = {
                "max |d logit|": float((y - base).abs().max()),
                "labels differing %": float((y.argmax(0) != base.argmax(0)).float().mean() * 100),
            }
    common.report(
        f"sliding window {patch} over {tuple(args.volume)}, {len(corners)} windows, features {feats}, {args.device}",
        stats,
        ref,
        extra,
        skipped | failed,
        vars(args),
        args.json,
    )


def _starts(n: int, k: int) -> list[int]:
    count = max(1, -(-(n - k) // max(1, k // 2)) + 1)
    return sorted({round(i * (n - k) / max(1, count - 1)) for i in range(count)})


def _gauss(patch):
    import torch

    g = torch.ones(())
    for k in patch:
        t = torch.arange(k, dtype=torch.float32)
        g = g[..., None] * torch.exp(-0.5 * ((t - (k - 1) / 2) / (k / 8)) ** 2)
    return g.clamp_(min=float(g.max()) * 1e-3)


if __name__ == "__main__":
    main()
