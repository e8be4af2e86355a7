#!/usr/bin/env python3
"""Time and peak memory of mlstm, bi_wkv and hsm_ssd beside other ways to compute them, all in one run.

    python tools/bench_scan/mixers.py [--lengths 1024 4096] [--repeats 5] [--device cpu]

On the CPU one thread, and seconds of that thread, so that a busy machine does not count; the best of the repeats. Peak
memory is what the allocator handed out at once, inputs not counted. Ways that need a package are left out without it;
ways that are quadratic end at 4096 tokens.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from unetkit.blocks.scan import bi_wkv, hsm_ssd, mlstm

Way = Callable[..., Tensor]
QUADRATIC_END = 4096


def parallel_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The mLSTM over all pairs of tokens: what most public vision code runs."""
    total = F.logsigmoid(f).cumsum(-1)
    log = total[..., :, None] - total[..., None, :] + i[..., None, :]
    log = log.masked_fill(torch.ones(log.shape[-2:], dtype=torch.bool, device=log.device).triu(1), -torch.inf)
    m = log.amax(-1, keepdim=True)
    weight = (q @ k.mT) * q.shape[-1] ** -0.5 * torch.exp(log - m)
    return weight @ v / (torch.maximum(weight.sum(-1, keepdim=True).abs(), torch.exp(-m)) + 1e-6)


def loop_wkv(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """The bidirectional WKV as two loops over the tokens with running maxima, through autograd."""
    w, keys, values = decay / k.shape[1], k.unbind(1), v.unbind(1)
    ways = [_causal(keys, values, w), [t[::-1] for t in _causal(keys[::-1], values[::-1], w)]]
    (a, b, o), (c, d, p) = ([torch.stack(t, 1) for t in way] for way in ways)
    own = k + first / k.shape[1]
    top = torch.maximum(torch.maximum(o, p), own)
    left, right, here = torch.exp(o - top), torch.exp(p - top), torch.exp(own - top)
    return (left * a + right * c + here * v) / (left * b + right * d + here)


def _causal(keys: tuple[Tensor, ...], values: tuple[Tensor, ...], w: Tensor) -> list[list[Tensor]]:
    """Sums of exp(k) v and exp(k) over the tokens before each, divided by exp of their running maximum."""
    state = (torch.zeros_like(keys[0]), torch.zeros_like(keys[0]), torch.full_like(keys[0], -1e30))
    states = []
    for k, v in zip(keys, values, strict=True):
        states.append(state)
        a, b, o = state
        top = torch.maximum(o - w, k)
        keep, take = torch.exp(o - w - top), torch.exp(k - top)
        state = (keep * a + take * v, keep * b + take, top)
    return [list(t) for t in zip(*states, strict=True)]


def plain_hsm(x: Tensor, B: Tensor, C: Tensor, dt: Tensor, a: Tensor) -> Tensor:
    """The hidden-state mixer through autograd."""
    return x @ (torch.softmax(dt + a[:, None], -1) * B).mT @ C


def peers() -> Iterator[tuple[str, Way]]:
    """Chunked forms of the packages that are installed."""
    for module, name, label in (
        ("mlstm_kernels.torch.chunkwise.native", "mlstm_chunkwise__native_autograd", "mlstm-kernels, autograd"),
        ("mlstm_kernels.torch.chunkwise.native", "mlstm_chunkwise__native_custbw", "mlstm-kernels, own backward"),
        ("mlstm_kernels.torch.chunkwise", "mlstm_chunkwise__limit_chunk", "mlstm-kernels, Triton limit"),
        ("mlstm_kernels.torch.chunkwise", "mlstm_chunkwise__xl_chunk", "mlstm-kernels, Triton TFLA"),
    ):
        try:
            way = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if way is not None and ("Triton" not in label or torch.cuda.is_available()):
            yield label, way


def ways(operator: str) -> dict[str, Way]:
    """The ways to compute an operator, ours first."""
    if operator == "mlstm":
        return {"unetkit": mlstm, "all pairs": parallel_mlstm, **dict(peers())}
    if operator == "bi_wkv":
        return {"unetkit": bi_wkv, "loop, autograd": loop_wkv}
    return {"unetkit": lambda *t: hsm_ssd(*t)[0], "autograd": plain_hsm}


def inputs(operator: str, length: int, device: str) -> list[Tensor]:
    """Sizes of the published networks: 4 heads of 96; 192 channels; 192 channels and 49 states."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "mlstm": ((1, 4, length, 96),) * 3 + ((1, 4, length),) * 2,
        "bi_wkv": ((1, length, 192),) * 2 + ((192,),) * 2,
        "hsm_ssd": ((1, 192, length), *((1, 49, length),) * 3, (49,)),
    }
    return [torch.randn(shape, device=device).requires_grad_() for shape in shapes[operator]]


def run(way: Way, given: list[Tensor], backward: bool) -> None:
    """One pass."""
    with torch.set_grad_enabled(backward):
        out = way(*given)
    if backward:
        torch.autograd.grad(out, given, torch.ones_like(out))


def seconds(way: Way, given: list[Tensor], backward: bool, repeats: int) -> float:
    """Best time of a pass, after one that is not timed."""
    cuda = given[0].is_cuda
    clock = time.perf_counter if cuda else time.thread_time
    best = float("inf")
    for attempt in range(repeats + 1):
        start = clock()
        run(way, given, backward)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start) if attempt else best
    return best


def peak_mb(way: Way, given: list[Tensor], backward: bool) -> float:
    """Most memory that a pass holds at once beside its inputs."""
    if given[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(way, given, backward)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run(way, given, backward)
    held = most = 0
    events = trace.profiler.kineto_results.events() if trace.profiler else []
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def main() -> None:
    """Print one line a way, length and pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--operators", nargs="+", default=["mlstm", "bi_wkv", "hsm_ssd"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'operator':9} {'tokens':>6} {'pass':17} {'way':28} {'ms':>9} {'ratio':>6} {'peak MB':>8}")
    for operator in args.operators:
        for length in args.lengths:
            given = inputs(operator, length, args.device)
            for backward in (False, True):
                ours = 0.0
                for name, way in ways(operator).items():
                    if length > QUADRATIC_END and name in ("all pairs", "loop, autograd"):
                        continue
                    took = seconds(way, given, backward, args.repeats if length <= QUADRATIC_END else 2)
                    ours = ours or took
                    label = "forward+backward" if backward else "forward"
                    print(
                        f"{operator:9} {length:6} {label:17} {name:28} {took * 1e3:9.1f} {took / ours:6.2f} "
                        f"{peak_mb(way, given, backward):8.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
