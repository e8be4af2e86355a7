#!/usr/bin/env python3
"""Describe a network by numbers that do not depend on how its modules are called or ordered, and compare them.

    python tools/parity.py NAME [--options JSON] [--in 3] [--classes 2] [--size 256,256] [--dtype float64]
    python tools/parity.py --list                 the stored expectations
    python tools/parity.py --check [NAME] [--all] compare with them; --all runs the heavy ones too
    python tools/parity.py --golden [NAME]        rewrite tests/golden.json, or the lines of one model
    python tools/parity.py --cost [NAME]          what ModelInfo shall say of gflops and activation_mb, to be pasted

Every weight is overwritten by normal random numbers seeded by the tensor's shape and role alone, one fixed input
runs through, and the output's mean, standard deviation, largest value and three samples are printed as JSON. The
expectations in tests/models/fingerprints/*.json came from the reference named in `source` under the same fill.

An expectation holds `id`; `create`, the arguments of create_model; `input` and `dtype` of the run; `params` and
`shape_hash_sorted`; `mean`, `std` and `samples` (first, at a third, last) of the output; `gflops` (twice the
multiply-adds, scans left out) at `gflops_input`, or `input` if that is absent; `source`. Optional: `index` of the
output in a tuple, `then` ("sigmoid" or "softmax") where the reference ends in one, `method` of the model that gives
what the reference gives where `forward` does not ("landmarks": its tensors one after the other), `more` (a list with
`index` and numbers of further outputs), `tolerance` instead of the usual one, `heavy` (numbers are compared by this
tool alone, not by the tests), `note`.

Costs are those of one image of the size in `params_at`, on tensors without content: `gflops` of a forward pass in
evaluation as torch counts them (twice the multiply-adds of convolutions and matrix products), `activation_mb` of what
a forward pass in training keeps for the backward pass in fp32, parameters left out. Put the printed line below
`params_at`; tests/test_every_model.py compares it. A network that asks for values on its way (none should) prints why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unetkit.bench.operations import flops, kept_bytes
from unetkit.registry import catalog, create_model

TESTS = Path(__file__).resolve().parents[1] / "tests"
EXPECTATIONS = TESTS / "models" / "fingerprints"
GOLDEN = TESTS / "golden.json"
INPUT_SEED = 12345
LARGE = 130_000_000
"""Parameters above which a test builds a network without memory: its shapes are known, not its numbers."""
WIDE = 60_000_000
"""Parameters above which a test narrows a network in dims that no paper gives it."""
NARROW = 8
KEPT = ("freqs", "attn_mask")  # constants that some references store as float buffers
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
THEN = {"sigmoid": torch.sigmoid, "softmax": lambda x: torch.softmax(x, 1), "": lambda x: x}


@lru_cache(maxsize=24)
def draw(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers that depend on the tag and the shape alone."""
    # crc32, as hash() of a string differs between processes; RandomState, as its stream is frozen
    seed = zlib.crc32(f"{tag}:{'x'.join(map(str, shape))}".encode("ascii"))
    return np.asarray(np.random.RandomState(seed).standard_normal(shape))


def value_of(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return what a state-dict tensor is filled with, by the last part of its name and its shape."""
    role = key.rpartition(".")[2]
    if role == "running_mean":
        return 0.1 * draw("rm", shape)
    if role == "running_var":  # positive
        return 1 + 0.1 * np.abs(draw("rv", shape))
    if role == "bias":
        return 0.1 * draw("b", shape)
    if role != "weight" or not shape:
        return 0.1 * draw("p", shape)
    # scales of norms lie about 1; kernels are divided by the root of the fan-in, so that maps keep their size
    return 1 + 0.1 * draw("g", shape) if len(shape) == 1 else draw("w", shape) / np.sqrt(np.prod(shape[1:]))


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Overwrite every floating tensor of the state dict, in place, and return the model."""
    for key, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and key.rpartition(".")[2] not in KEPT:
            tensor.copy_(torch.from_numpy(value_of(key, tuple(tensor.shape))))
    return model


def count(model: nn.Module) -> int:
    """Return the number of trainable parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shape_hash(model: nn.Module) -> str:
    """Return a short hash of the sorted shapes of all parameters."""
    # sorted: references register the same tensors in another order and under other names
    shapes = sorted(tuple(p.shape) for p in model.parameters())
    return hashlib.sha1(";".join(",".join(map(str, s)) for s in shapes).encode("ascii")).hexdigest()[:12]


@torch.no_grad()
def outputs(model: nn.Module, size: Sequence[int], dtype: str, method: str = "forward") -> tuple[Tensor, ...]:
    """Fill the model, run it (or one of its methods) on the fixed input [B, C, *S] and return all its outputs."""
    kind = getattr(torch, dtype)
    model = fill(model.eval().to(kind))
    x = torch.from_numpy(np.random.RandomState(INPUT_SEED).standard_normal(tuple(size))).to(kind)
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)  # constants made inside forward follow
    try:
        found = model(x) if method == "forward" else getattr(model, method)(x)
    finally:
        torch.set_default_dtype(before)
    return tuple(value for value in tree_leaves(found) if isinstance(value, Tensor))


def statistics(output: Tensor, then: str = "") -> dict[str, Any]:
    """Return shape, mean, std, absmax and samples of one output."""
    flat = THEN[then](output).double().flatten()
    samples = [float(f"{flat[i]:.10g}") for i in (0, flat.numel() // 3, flat.numel() - 1)]
    numbers = {"mean": flat.mean(), "std": flat.std(unbiased=False), "absmax": flat.abs().max()}
    return {
        "output": list(output.shape),
        **{key: float(f"{value:.10g}") for key, value in numbers.items()},
        "samples": samples,
    }


def gflops(model: nn.Module, size: Sequence[int], *, scans: bool = True) -> float:
    """Return the billions of operations of one forward pass, as torch counts them, with or without recurrences."""
    return flops(model, size, scans=scans) / 1e9


def cost(name: str, dims: int) -> dict[str, float]:
    """Return parameters, gflops and activation_mb of a model at its `params_at`; no memory is touched."""
    channels, classes, size = catalog()[name].params_at[dims]
    with torch.device("meta"):
        model = create_model(name, in_channels=channels, num_classes=classes, patch_size=size)
        shape = (1, channels, *size)
        return {"params": count(model), "gflops": gflops(model, shape), "activation_mb": kept_bytes(model, shape) / 1e6}


def cost_lines(only: str | None) -> Iterator[str]:
    """Yield for each model its costs as literals of ModelInfo, and whether they stand there already."""
    for name, info in catalog().items():
        if only not in (None, name) or not info.params_at:
            continue
        try:
            found = {dims: cost(name, dims) for dims in sorted(info.params_at)}
        except (RuntimeError, ValueError) as error:
            yield f"{name:<20} cannot be counted without content: {str(error).splitlines()[0]}"
            continue
        fields = {key: {d: float(f"{of[key]:.4g}") for d, of in found.items()} for key in ("gflops", "activation_mb")}
        known = all(getattr(info, key) == fields[key] for key in fields)
        literals = ", ".join(f"{key}={value}" for key, value in fields.items())
        counted = ", ".join(f"{of['params']} parameters in {d}D" for d, of in found.items())
        yield f"{name:<20} {'as stated' if known else f'{literals},'}  # {counted}"


def expectations(name: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the stored expectations, of one file or of all."""
    for path in sorted(EXPECTATIONS.glob(f"{name or '*'}.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))


def built(want: dict[str, Any]) -> nn.Module:
    """Build the model of an expectation."""
    create = dict(want["create"])
    return create_model(create.pop("name"), **create.pop("options", {}), **create)


def count_differences(want: dict[str, Any]) -> list[str]:
    """Compare parameters, their shapes and operations, without a single number computed."""
    # meta tensors have shapes but no memory: a network of a gigabyte costs nothing
    with torch.device("meta"):
        model = built(want)
    got = {"params": count(model), "shape_hash_sorted": shape_hash(model)}
    lines = [f"{key}: {got[key]} != {want[key]}" for key in got if key in want and got[key] != want[key]]
    if "gflops" in want:
        found = gflops(model, want.get("gflops_input", want["input"]), scans=False)
        if abs(found - want["gflops"]) > 0.01 * want["gflops"]:
            lines.append(f"gflops: {found:.4f} != {want['gflops']}")
    return lines


def number_differences(want: dict[str, Any]) -> list[str]:
    """Run the model and compare the statistics of its outputs."""
    if "mean" not in want:
        return []
    found = outputs(built(want), want["input"], want["dtype"], want.get("method", "forward"))
    lines = []
    for expected in ({"index": 0, **want}, *want.get("more", ())):
        got = statistics(found[expected["index"]], want.get("then", ""))
        # a mean near 0 is a sum of large numbers: it is compared on their scale, not on its own
        scale = abs(expected["std"]) + abs(expected["mean"])
        pairs = [(key, got[key], expected[key]) for key in ("mean", "std")]
        pairs += [("sample", a, b) for a, b in zip(got["samples"], expected["samples"], strict=True)]
        lines += [
            f"output {expected['index']} {what}: {a} != {b}"
            for what, a, b in pairs
            if abs(a - b) > want.get("tolerance", TOLERANCE[want["dtype"]]) * max(abs(b), scale)
        ]
    return lines


def golden_of(model: nn.Module) -> dict[str, Any]:
    """Return parameter count and, unless it is large, output mean of a model under the fill, in its own precision."""
    task = model.task
    known = {"size": list(task.patch_size), "params": count(model)}
    if is_large(model.info.name):
        return known
    found = outputs(model, (1, task.in_channels, *task.patch_size), "float32")
    return {**known, "mean": statistics(found[0])["mean"]}


@lru_cache
def is_large(name: str) -> bool:
    """Say whether a model is, at the sizes of the tests, too large to be computed with there."""
    sizes = [smallest(name, dims) for dims in catalog()[name].dims]
    with torch.device("meta"):
        models = [create_model(name, in_channels=2, num_classes=3, patch_size=size) for size in sizes]
    # also what is frozen has to be kept and computed with
    return max(sum(p.numel() for p in model.parameters()) for model in models) > LARGE


@lru_cache
def narrow(name: str, dims: int) -> dict[str, Any]:
    """Return options that make a network light to compute with: none, unless its widths are a list in other dims."""
    info = catalog()[name]
    if not info.params or dims in info.params or info.multiple_by.get("widths") != 1:
        return {}
    with torch.device("meta"):
        found = count(create_model(name, in_channels=2, num_classes=3, patch_size=smallest(name, dims)))
    # a rule of 1 for widths: sides divide by 2 per level below the first
    return {"widths": [NARROW * 2**level for level in range(info.multiple.bit_length())]} if found > WIDE else {}


def device_of(name: str) -> torch.device:
    """Return where to build a model for a test: without memory if it is large."""
    return torch.device("meta" if is_large(name) else "cpu")


def golden(only: str | None) -> str:
    """Return the golden numbers of every model as it is built by default, as JSON with a line for each.

    With the name of a model the stored numbers of the others stay.
    """
    cases = [f"{name} {dims}d" for name, info in sorted(catalog().items()) for dims in info.dims]
    found = {}
    for key in cases:
        name, dims = key.split()
        if only in (None, name):
            size, options = smallest(name, int(dims[0])), narrow(name, int(dims[0]))
            with device_of(name):
                found[key] = golden_of(create_model(name, in_channels=2, num_classes=3, patch_size=size, **options))
    # read last: somebody else may have written lines of another model meanwhile
    stored = json.loads(GOLDEN.read_text(encoding="utf-8")) | found if only else found
    return (
        "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(stored[key])}" for key in cases if key in stored) + "\n}\n"
    )


def smallest(name: str, dims: int) -> tuple[int, ...]:
    """Return the smallest legal size of at least 16 voxels a side: below that, most maps are padding."""
    return catalog()[name].legal_size((16,) * dims)


def check(name: str | None, every: bool) -> int:
    """Print a line per expectation and return how many are not met."""
    wrong = 0
    for want in expectations(name):
        lines = count_differences(want)
        if every or not want.get("heavy"):
            lines += number_differences(want)
        print(f"{want['create']['name']:24} {want['id']:36} {'; '.join(lines) or 'agrees'}", flush=True)
        wrong += bool(lines)
    return wrong


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fingerprint of the model that the command line asks for."""
    size = tuple(int(n) for n in args.size.split(","))
    options = json.loads(args.options)
    model = create_model(args.name, in_channels=args.channels, num_classes=args.classes, patch_size=size, **options)
    shape = (1, args.channels, *size)
    every = [statistics(o) for o in outputs(model, shape, args.dtype)]
    facts = {"params": count(model), "shape_hash_sorted": shape_hash(model), "gflops": round(gflops(model, shape), 4)}
    return {"input": list(shape), "dtype": args.dtype, **facts, **every[0], "more": every[1:]}


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a model, or with --check a file of expectations")
    parser.add_argument("--options", default="{}", help="options of the model as JSON")
    parser.add_argument("--in", dest="channels", type=int, default=1, help="input channels")
    parser.add_argument("--classes", type=int, default=2, help="output channels")
    parser.add_argument("--size", default="64,64", help="patch size, comma-joined; its length decides the dims")
    parser.add_argument("--dtype", default="float64", choices=sorted(TOLERANCE))
    parser.add_argument("--list", action="store_true", help="list the stored expectations")
    parser.add_argument("--check", action="store_true", help="compare with the stored expectations")
    parser.add_argument("--all", action="store_true", help="with --check: the heavy ones too")
    parser.add_argument("--golden", action="store_true", help="rewrite tests/golden.json, for one model if named")
    parser.add_argument("--cost", action="store_true", help="print gflops and activation_mb, for one model if named")
    args = parser.parse_args()
    if args.list:
        for want in expectations(args.name):
            print(f"{want['create']['name']:24} {want['id']:36} {want['source']}")
        return 0
    if args.check:
        return min(check(args.name, args.all), 1)
    if args.golden:
        GOLDEN.write_text(golden(args.name), encoding="utf-8")
        return 0
    if args.cost:
        for line in cost_lines(args.name):
            print(line, flush=True)
        return 0
    if not args.name:
        parser.error("name a model, or give --list, --check, --golden or --cost")
    print(json.dumps(describe(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
