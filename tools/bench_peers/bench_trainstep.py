"""One optimisation step (forward, Dice+CE with deep supervision, backward, clip, SGD) of nnU-Net's PlainConvUNet."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import common


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--patch", type=common.shape3, default=(64, 64, 64))
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--classes", type=int, default=4)
    p.add_argument("--features", default="32,64,128,256,320")
    p.add_argument("--model", choices=["plain", "resenc"], default="plain")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    if args.keep_heap:
        common.keep_heap()
    import torch
    import torch.nn.functional as F
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    from torch import nn

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dev = torch.device(args.device)
    if dev.type == "cuda":
        torch.backends.cudnn.benchmark = True
    feats = [int(v) for v in args.features.split(",")]
    n = len(feats)
    common_kw = {
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    cls, blocks = (PlainConvUNet, 2) if args.model == "plain" else (ResidualEncoderUNet, [1, 3, 4, 6, 6, 6][:n])
    template = cls(
        1,
        n,
        feats,
        nn.Conv3d,
        3,
        [1] + [2] * (n - 1),
        blocks,
        args.classes,
        2 if args.model == "plain" else 1,
        **common_kw,
    )
    x = torch.randn(args.batch, 1, *args.patch, device=dev)
    y = torch.randint(0, args.classes, (args.batch, *args.patch), device=dev)
    targets = [y] + [
        F.interpolate(y[:, None].float(), [s >> i for s in args.patch], mode="nearest-exact")[:, 0].long()
        for i in range(1, n - 1)
    ]

    def loss_fn(outs):
        total = 0.0
        for i, (o, t) in enumerate(zip(outs, targets, strict=False)):
            o = o.float()
            ce = F.cross_entropy(o, t)
            pr = o.softmax(1)
            oh = F.one_hot(t, args.classes).movedim(-1, 1).to(pr.dtype)
            ax = tuple(range(2, o.ndim))
            dice = ((2 * (pr * oh).sum(ax) + 1e-5) / (pr.sum(ax) + oh.sum(ax) + 1e-5))[:, 1:].mean()
            total = total + (ce + 1 - dice) / (1 << i)
        return total

    def sync():
        if dev.type == "cuda":
            torch.cuda.synchronize()

    c = common.Contenders()

    def variant(dtype=None, channels_last=False, compiled="", fused=False, foreach=None, group=False):
        def factory():
            net = copy.deepcopy(template)
            if group:
                net = common.as_group_norm(net)
            net = net.to(dev).train()
            inp = x
            if channels_last:
                net = net.to(memory_format=torch.channels_last_3d)
                inp = x.contiguous(memory_format=torch.channels_last_3d)
            opt = torch.optim.SGD(
                net.parameters(),
                1e-2,
                momentum=0.99,
                nesterov=True,
                weight_decay=3e-5,
                fused=fused or None,
                foreach=foreach,
            )
            run = torch.compile(net, mode=compiled if compiled != "default" else None) if compiled else net
            crit = torch.compile(loss_fn) if compiled else loss_fn
            scaler = torch.amp.GradScaler(dev.type, enabled=dtype is torch.float16)

            def call():
                opt.zero_grad(set_to_none=True)
                with torch.autocast(dev.type, dtype or torch.bfloat16, enabled=dtype is not None):
                    outs = run(inp)
                    loss = crit(outs)
                scaler.scale(loss).backward()
                scaler.unscale_(opt)
                torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
                scaler.step(opt)
                scaler.update()
                sync()
                return float(loss.detach())

            return call

        return factory

    c.add("eager fp32")(variant())
    c.add("eager fp32, channels_last_3d")(variant(channels_last=True))
    c.add("eager fp32, fused SGD")(variant(fused=True))
    c.add("eager bf16")(variant(dtype=torch.bfloat16))
    c.add("eager bf16, channels_last_3d")(variant(dtype=torch.bfloat16, channels_last=True))
    c.add("eager fp32, GroupNorm(C)")(variant(group=True))
    c.add("eager bf16, channels_last_3d, GroupNorm(C)")(variant(dtype=torch.bfloat16, channels_last=True, group=True))
    c.add("compile bf16, channels_last_3d, GroupNorm(C)")(
        variant(dtype=torch.bfloat16, channels_last=True, group=True, compiled="default")
    )
    c.add("compile fp32")(variant(compiled="default"))
    c.add("compile bf16")(variant(dtype=torch.bfloat16, compiled="default"))
    c.add("compile bf16, channels_last_3d")(variant(dtype=torch.bfloat16, channels_last=True, compiled="default"))
    if dev.type == "cuda":
        c.add("eager fp16 + scaler (nnU-Net's default)")(variant(dtype=torch.float16))
        c.add("compile fp16 + scaler")(variant(dtype=torch.float16, compiled="default"))
        c.add("compile bf16, reduce-overhead (CUDA graphs)")(variant(dtype=torch.bfloat16, compiled="reduce-overhead"))
        c.add("compile bf16, max-autotune")(variant(dtype=torch.bfloat16, compiled="max-autotune-no-cudagraphs"))
        c.add("compile bf16, channels_last_3d, reduce-overhead")(
            variant(dtype=torch.bfloat16, channels_last=True, compiled="reduce-overhead")
        )

    @c.add("unetkit")
    def _unetkit():
        from unetkit.engine.losses import build_loss
        from unetkit.engine.step import Stepper
        from unetkit.recipe import TrainSection
        from unetkit.types import Labels, TaskShape

        net = copy.deepcopy(template)
        net.task = TaskShape(1, args.classes, args.patch)
        section = TrainSection()
        names = tuple(f"class {k}" for k in range(1, args.classes))
        loss = build_loss(section.loss, Labels(names, tuple((k,) for k in range(1, args.classes))))
        stepper = Stepper(net, loss, section, dev)
        batch = SimpleNamespace(image=x, label=y[:, None].to(torch.uint8), case_ids=("synthetic",) * args.batch)
        steps = itertools.count()

        def call():
            value = float(stepper([batch], next(steps), 0, 0.01)[0])
            sync()
            return value

        return call

    ready, skipped = c.build(common.wanted(args))
    stats, out, failed = common.run(ready, args.repeats, max(2, args.warmup), args.budget)
    extra = {k: {"loss": v} for k, v in out.items() if isinstance(v, float)}
    if dev.type == "cuda":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as fc:
            variant()()()
        for k, s in stats.items():
            extra.setdefault(k, {})["TFLOP/s"] = fc.get_total_flops() / s["median_s"] / 1e12
    common.report(
        f"training step, {args.model} {feats}, batch {args.batch} x {tuple(args.patch)}, {args.device}",
        stats,
        args.reference or "eager fp32",
        extra,
        skipped | failed,
        vars(args),
        args.json,
    )


if __name__ == "__main__":
    main()
