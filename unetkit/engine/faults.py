"""What may break while training through no bug of ours, said in one line with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unetkit.errors import RecipeError
from unetkit.infer.shortage import is_shortage
from unetkit.plan.plan import Plan


@dataclass(frozen=True)
class Load:
    """What a training step asks of the memory: the plan's batch and patch, batches per step, number format."""

    plan: Plan
    accumulate: int
    precision: str


@contextmanager
def explained(where: str, load: Load) -> Iterator[None]:
    """Turn running out of memory, and operators that cannot be deterministic, into a RecipeError.

    `where` names the moment, for example "step 12 (cases a, b)".
    """
    try:
        yield
    # UserWarning: what deterministic mode makes of its own warnings
    except (MemoryError, RuntimeError, UserWarning) as error:
        if is_shortage(error):
            raise RecipeError(out_of_memory(where, load)) from error
        text = str(error)
        if "deterministic implementation" in text:
            operator = text.split(" does not")[0].splitlines()[-1]
            raise RecipeError(
                f"train.deterministic=true: {operator} has no deterministic form on this device; "
                "set train.deterministic=false or choose another model"
            ) from error
        raise


def out_of_memory(where: str, load: Load) -> str:
    """Return the line for a full memory: what was asked of it, and the cheapest way out."""
    batch, patch = load.plan.batch_size, load.plan.patch_size
    if batch > 1:
        # half the batch, twice as often: about as many samples make a step, so the learning rate still fits
        remedy = f"try train.batch_size={batch // 2} train.accumulate={2 * load.accumulate}"
    else:
        smaller = ", ".join(str(max(n // 2, 1)) for n in patch)
        remedy = f"try data.patch_size=[{smaller}] (or the next legal size)"
    half = "" if load.precision != "fp32" else ", or train.precision=bf16"
    return f"{where}: out of memory with batch size {batch} and patch {'x'.join(map(str, patch))}; {remedy}{half}"
