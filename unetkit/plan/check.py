"""Whether the sizes of a plan agree with each other, whoever wrote them."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

from unetkit.errors import RecipeError, counted
from unetkit.plan.plan import Plan
from unetkit.topology import Sizes


def per_axis(rows: Any, name: str, dims: int) -> Sizes:
    """Write one number or one per axis as one per axis. Raises RecipeError for any other number of them."""
    sizes = tuple((row,) * dims if isinstance(row, int) else tuple(row) for row in rows)
    for row in sizes:
        if len(row) != dims:
            raise RecipeError(f"plan.{name}: {list(row)} for a network of {dims} axes; give one number per axis")
    return sizes


def check_topology(strides: Sizes, kernels: Sizes, widths: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """Raise RecipeError if stages differ in number, or if the strides do not divide the patch."""
    if not len(strides) == len(kernels) == len(widths):
        raise RecipeError(
            f"plan: {len(strides)} strides, {len(kernels)} kernels and {len(widths)} widths contradict each other; "
            "give one of each per stage"
        )
    divisor = [prod(axis) for axis in zip(*strides, strict=True)]
    if any(n % d for n, d in zip(patch, divisor, strict=True)):
        fitting = [-(-n // d) * d for n, d in zip(patch, divisor, strict=True)]
        raise RecipeError(
            f"plan.strides divide the patch by {divisor}, which {list(patch)} does not allow; use {fitting}"
        )


def check_plan(plan: Plan) -> None:
    """Raise RecipeError for the first part of a plan that contradicts another or cannot be."""
    dims = plan.dims
    if dims not in (2, 3) or min(plan.patch_size) < 1:
        raise RecipeError(f"patch_size {list(plan.patch_size)}: give 2 or 3 whole numbers from 1 on")
    if plan.batch_size < 1:
        raise RecipeError(f"batch_size {plan.batch_size}: give a whole number from 1 on")
    if plan.transpose and sorted(plan.transpose) != [0, 1, 2]:
        raise RecipeError(f"transpose {list(plan.transpose)}: give the axes 0, 1 and 2 in the order of the network")
    if plan.spacing is not None and not all(isfinite(s) and s > 0 for s in plan.spacing):
        raise RecipeError(f"spacing {list(plan.spacing)}: give positive numbers in mm")
    if plan.spacing is not None and len(plan.spacing) != dims:
        raise RecipeError(f"spacing {list(plan.spacing)} for a patch of {dims} axes; give one number per axis")
    if len(plan.normalization) != len(plan.channels):
        raise RecipeError(
            f"{counted(len(plan.normalization), 'normalisation')} for {counted(len(plan.channels), 'channel')} "
            f"({', '.join(plan.channels)}); give one each"
        )
    for name in ("strides", "kernels"):
        per_axis(getattr(plan, name), name, dims)
    if plan.strides or plan.kernels or plan.widths:
        check_topology(plan.strides, plan.kernels, plan.widths, plan.patch_size)
