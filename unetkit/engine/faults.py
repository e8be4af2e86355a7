"""What may break while training through no bug of ours, said in one line with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unetkit.errors import RecipeError
from unetkit.plan.plan import Plan

_CPU_FULL = ("can't allocate memory", "not enough memory")


@contextmanager
def explained(where: str, plan: Plan, precision: str) -> Iterator[None]:
    """Turn running out of memory, and operators that cannot be deterministic, into a RecipeError.

    `where` names the moment, for example "step 12 (cases a, b)".
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RecipeError(out_of_memory(where, plan, precision)) from error
    except (RuntimeError, UserWarning) as error:
        text = str(error)
        if any(sign in text for sign in _CPU_FULL):
            raise RecipeError(out_of_memory(where, plan, precision)) from error
        if "deterministic implementation" in text:
            operator = text.split(" does not")[0].splitlines()[-1]
            raise RecipeError(
                f"train.deterministic=true: {operator} has no deterministic form on this device; "
                "set train.deterministic=false or choose another model"
            ) from error
        raise


def out_of_memory(where: str, plan: Plan, precision: str) -> str:
    """Return the line for a full memory: what was asked of it, and the cheapest way out."""
    size = "x".join(map(str, plan.patch_size))
    smaller = ", ".join(str(max(n // 2, 1)) for n in plan.patch_size)
    remedy = (
        f"try train.batch_size={plan.batch_size // 2} train.accumulate=2"
        if plan.batch_size > 1
        else f"try data.patch_size=[{smaller}] (or the next legal size)"
    )
    half = "" if precision != "fp32" else ", or train.precision=bf16"
    return f"{where}: out of memory with batch size {plan.batch_size} and patch {size}; {remedy}{half}"
