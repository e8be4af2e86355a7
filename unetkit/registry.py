"""Every network by name: what it is, where it comes from, how to build it.

A model is a function under `@register(ModelInfo(...))` in `unetkit/models/`, or under `@variant(other, ...)` with what
differs from another model. The arguments are literals, so `catalog()` reads them from the source text: listing models
needs neither torch nor the model files.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, wraps
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unetkit.errors import ModelError, RecipeError, ShapeError, nearest
from unetkit.model_files import Written, model_files, read_builders, what_is_new
from unetkit.types import TaskShape

if TYPE_CHECKING:
    from torch import Tensor, nn

Builder = TypeVar("Builder", bound=Callable[..., Any])
Choice = TypeVar("Choice")

Span = tuple[float | None, float | None]
"""Smallest and largest value that pass, both included; None where there is no bound."""

FAMILIES = ("cnn", "transformer", "ssm", "xlstm", "rwkv", "hybrid")
LEARNS = ("voxels", "contours", "queries")


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it.

    `source` is (repository, commit, licence) of the reference; `multiple` divides every side length (a tuple
    per axis where axes differ) and no side is below `min_size`, both with the default options; `multiple_by` and
    `min_size_by` map options that change them, the first one given deciding, to a rule: {name: number} for an option
    that names a variant; else a number, times 2 per level below the first of an option that lists levels, times 2 per
    step of one that counts them, and as it is for one that names a network; "product" of strides, per axis; "axes" of
    an option that holds a number for each.
    `fixed`: the input must have the patch size the model was built for;
    `square`: all sides equal; `params` holds the published parameter count per dims, at `params_at`
    (in_channels, num_classes, patch_size) per dims; `gflops` and `activation_mb` are what one image of that size
    takes: billions of operations forward, and MB of fp32 maps that training keeps for the backward pass (`python
    tools/parity.py --cost NAME` prints both); `new` is one sentence on what the paper adds, by default the first
    sentence of the model's file; `needs` are optional packages; `options` maps
    each option of the builder to its default, filled in from its signature. `presets`: the planners of nnU-Net that
    were made for this network, its own default first.
    `learns` says what is compared with the labels in training, one of LEARNS: the logits of `forward` (voxels), the
    points of `landmarks(image)` (contours), or the objects of `queries(image)` (queries). Whichever it is, `forward`
    gives logits, so that all but training takes every network alike.
    """

    title: str
    family: str
    year: int
    paper: str
    dims: tuple[int, ...]
    multiple: int | tuple[int, ...] = 1
    min_size: int = 1
    multiple_by: dict[str, Any] = field(default_factory=dict)
    min_size_by: dict[str, Any] = field(default_factory=dict)
    fixed: bool = False
    square: bool = False
    deep_supervision: bool = False
    source: tuple[str, str, str] = ("", "", "")
    params: dict[int, int] = field(default_factory=dict)
    params_at: dict[int, tuple[int, int, tuple[int, ...]]] = field(default_factory=dict)
    gflops: dict[int, float] = field(default_factory=dict)
    activation_mb: dict[int, float] = field(default_factory=dict)
    new: str = ""
    needs: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    learns: str = "voxels"
    notes: str = ""
    name: str = ""
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    build: Callable[..., nn.Module] | None = None

    def legal_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest allowed size that holds `size` voxels per axis."""
        # a stride of 0 is for the builder to refuse
        steps = [max(m, 1) for m in self.multiples(len(size))]
        # -(-a // b) rounds up.
        up = [-(-max(n, self.min_size, 1) // m) * m for n, m in zip(size, steps, strict=True)]
        return tuple([max(up)] * len(up)) if self.square else tuple(up)

    def multiples(self, dims: int) -> tuple[int, ...]:
        """Return what each of so many side lengths must be a multiple of."""
        return (self.multiple,) * dims if isinstance(self.multiple, int) else self.multiple

    def fitted(self, options: Mapping[str, Any]) -> ModelInfo:
        """Return the same model with the sizes that it takes when built with these options."""
        multiple, least = _scale(self.multiple_by, options), _scale(self.min_size_by, options)
        return replace(
            self, multiple=self.multiple if multiple is None else multiple, min_size=max(1, least or self.min_size)
        )


def _scale(rules: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Return what the first given option of `rules` makes of a size; None if no option says anything."""
    for key, rule in rules.items():
        value = options.get(key)
        # a wrong type is for the builder to refuse, which knows what the option is
        if isinstance(value, str):
            found = rule.get(value) if isinstance(rule, dict) else rule
        elif isinstance(value, int) and isinstance(rule, int):
            found = rule * 2**value
        elif isinstance(value, list | tuple) and value:
            found = _BY_AXIS[rule](value) if rule in _BY_AXIS else rule * 2 ** (len(value) - 1)
        else:
            found = None
        if found is not None:
            return found
    return None


def _product(strides: Sequence[Any]) -> Any:
    """Multiply up the strides of all levels: one number if all are plain numbers, else one per axis."""
    if all(isinstance(s, int) for s in strides):
        return prod(strides)
    dims = max(len(s) for s in strides if not isinstance(s, int))
    return tuple(prod(axis) for axis in zip(*[(s,) * dims if isinstance(s, int) else s for s in strides], strict=True))


_BY_AXIS: dict[str, Callable[[Sequence[Any]], Any]] = {"product": _product, "axes": tuple}


_live: dict[str, ModelInfo] = {}


def register(info: ModelInfo) -> Callable[[Builder], Builder]:
    """Add the decorated builder `(task, *, option=default, ...) -> Module` under its own name.

    Raises ModelError if the name is taken by another module's builder, or `info` states another one.
    """

    def add(build: Builder) -> Builder:
        return _add(info, build, build.__kwdefaults__ or {})

    return add


def variant(of: Callable[..., Any], **differs: Any) -> Callable[[Builder], Builder]:
    """Add the decorated builder with what is known of the model `of`, but for the fields of ModelInfo that differ.

    If it takes `**options`, those of `of` are among its own, filled in with their defaults. Raises as `register`.
    """
    base = _live[of.__name__]

    def add(build: Builder) -> Builder:
        own = build.__kwdefaults__ or {}
        inherited = base.options if build.__code__.co_flags & inspect.CO_VARKEYWORDS else {}

        @wraps(build)
        def filled(task: TaskShape, **given: Any) -> nn.Module:
            return build(task, **{**inherited, **own, **given})

        return _add(_differing(base, differs), cast(Builder, filled), {**inherited, **own})

    return add


def _differing(base: ModelInfo, differs: Mapping[str, Any]) -> ModelInfo:
    # what a paper adds is said by the file of each
    return replace(base, **{"name": "", "new": "", **differs})


def _add(info: ModelInfo, build: Builder, options: Mapping[str, Any]) -> Builder:
    name, module = build.__name__, build.__module__
    if info.name not in ("", name):
        raise ModelError(f"ModelInfo(name='{info.name}') on {name}: a model bears its builder's name; drop name")
    known = _live.get(name) or _catalog().get(name)
    if known and known.module != module:
        raise ModelError(f"model '{name}' is registered by {known.module} already; choose another name")
    new = info.new or what_is_new(inspect.unwrap(build).__globals__.get("__doc__"))
    _live[name] = replace(info, name=name, module=module, build=build, options=dict(options), new=new)
    return build


def catalog() -> dict[str, ModelInfo]:
    """Return every model by name, without importing those of unetkit itself."""
    # What has been imported knows more (its builder), and may come from outside of the package.
    return {**_catalog(), **_live}


@cache
def _catalog() -> dict[str, ModelInfo]:
    found: dict[str, ModelInfo] = {}
    entries = [entry for path, module in model_files() for entry in _builders(path, module)]
    # variants last: what they differ from may stand in any file
    for written in sorted(entries, key=lambda entry: entry.of is not None):
        base = found.get(written.of or "")
        info = _info(written) if base is None else _differing(base, written.fields)
        options = {**(base.options if base and written.takes_more else {}), **written.options}
        new = info.new or written.new
        if written.name in found:
            raise ModelError(
                f"model '{written.name}' stands in {found[written.name].module} and in {written.module}; rename one"
            )
        found[written.name] = replace(info, name=written.name, module=written.module, options=options, new=new)
    return dict(sorted(found.items()))


def _builders(path: Path, module: str) -> list[Written]:
    try:
        return list(read_builders(path, module))
    except (SyntaxError, ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as a file of models ({error}); correct it") from error


def _info(written: Written) -> ModelInfo:
    try:
        return ModelInfo(**written.fields)
    except TypeError as error:
        raise ModelError(f"{written.module}.{written.name}: {error}; correct its ModelInfo(...)") from error


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    dims: int | None = None,
    year: int | Span | None = None,
    params: Span | None = None,
    gflops: Span | None = None,
    licence: str | None = None,
) -> list[str]:
    """Return the sorted names of the models that match all that is given.

    `pattern` is a shell pattern on the name, `family` one of FAMILIES, `dims` 2 or 3, `year` that of the paper,
    `params` and `gflops` bounds on the published parameter count and on the operations at the size of that count, in
    the dims asked for if any, else in 2D or 3D; models of which they are unknown do not match. `licence` is that of the
    reference, a shell pattern too. Raises ModelError for an unknown family or an empty range.
    """
    if family is not None and family not in FAMILIES:
        raise ModelError(f"family '{family}'{nearest(family, FAMILIES)}: choose one of {', '.join(FAMILIES)}")
    years = (year, year) if isinstance(year, int) else year
    for name, span in (("year", years), ("params", params), ("gflops", gflops)):
        if span is not None and None not in span and span[0] > span[1]:  # type: ignore[operator]
            raise ModelError(f"{name}: nothing lies between {span[0]:g} and {span[1]:g}; write the smaller bound first")
    return sorted(
        name
        for name, info in catalog().items()
        if fnmatchcase(name, pattern)
        and family in (None, info.family)
        and (dims is None or dims in info.dims)
        and _within(years, [info.year])
        and _within(params, _in_dims(info.params, dims))
        and _within(gflops, _in_dims(info.gflops, dims))
        and (licence is None or fnmatchcase(info.source[2].lower(), licence.lower()))
    )


def _in_dims(values: Mapping[int, float], dims: int | None) -> list[float]:
    return [value for d, value in values.items() if dims in (None, d)]


def _within(span: Span | None, values: Sequence[float]) -> bool:
    """Whether any of the values lies in the span."""
    if span is None:
        return True
    low, high = span
    return any((low is None or v >= low) and (high is None or v <= high) for v in values)


def model_info(name: str) -> ModelInfo:
    """Return what is known of a model. Raises ModelError with the nearest name if there is none."""
    models = catalog()
    if name not in models:
        hint = nearest(name, models) or "; `unetkit list models` names them"
        raise ModelError(
            f"there is no model '{name}'{hint}; a model of your own exists once an installed package names its module "
            "as entry point unetkit.models, or its file is imported"
        )
    return models[name]


def choose(table: Mapping[str, Choice], key: str, what: str) -> Choice:
    """Return what a model's option `what` selects from its table. Raises ModelError with the nearest key if nothing."""
    if key not in table:
        raise ModelError(f"{what}='{key}'{nearest(str(key), table)}: choose one of {', '.join(table)}")
    return table[key]


def check_task(info: ModelInfo, task: TaskShape, options: dict[str, Any]) -> None:
    """Refuse what the model cannot be built for.

    Raises ModelError for dims, options or packages it lacks, ShapeError for a patch size it cannot take.
    """
    if task.dims not in info.dims:
        can = " and ".join(f"{d}D" for d in info.dims)
        raise ModelError(f"{info.name} is {can} only, patch_size {task.patch_size} asks for {task.dims}D")
    for key in options:
        if key not in info.options:
            allowed = ", ".join(info.options) or "it has none"
            raise ModelError(f"{info.name} has no option '{key}'{nearest(key, info.options)}; options: {allowed}")
    for package in info.needs:
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"{info.name} needs the package '{package}'; run: pip install {package}")
    fitted = info.fitted(options)
    if not isinstance(fitted.multiple, int) and len(fitted.multiple) != task.dims:
        given = ", ".join(f"{key}={options[key]}" for key in info.multiple_by if options.get(key))
        raise ModelError(f"{info.name} cannot be built with {given}: patch_size {task.patch_size} has {task.dims} axes")
    check_size(fitted, task.patch_size, f"{info.name}: patch_size")


def check_size(info: ModelInfo, size: Sequence[int], what: str) -> None:
    """Raise ShapeError, naming the next legal size, if a model cannot take side lengths `size`."""
    legal = info.legal_size(size)
    if tuple(size) != legal:
        raise ShapeError(f"{what} {tuple(size)}: {size_rule(info, len(size))}; the next legal size is {legal}")


def size_rule(info: ModelInfo, dims: int) -> str:
    """Say in words which side lengths a model takes."""
    multiples = info.multiples(dims)
    by = multiples[0] if len(set(multiples)) == 1 else multiples
    rules = [f"multiples of {by}"] if max(multiples) > 1 else []
    rules += [f"at least {info.min_size}"] if info.min_size > max(multiples) else []
    rules += ["all equal"] if info.square else []
    return "sides must be " + (", ".join(rules) or "at least 1")


def create_model(
    name: str, *, in_channels: int = 1, num_classes: int = 2, patch_size: Sequence[int] = (256, 256), **options: Any
) -> nn.Module:
    """Build a model by name; the length of `patch_size` decides between 2D and 3D.

    The module takes [B, in_channels, *S] and returns logits [B, num_classes, *S] (background counted), or,
    with `deep_supervision=True`, a tuple of such maps, full size first. `options` are the builder's own.
    It carries `.info` (ModelInfo) and `.task` (TaskShape) and raises ShapeError on an input it cannot take.
    Raises ModelError for an unknown name, option or dims, ShapeError for an illegal patch size.
    """
    info = model_info(name)
    task = TaskShape(in_channels, num_classes, tuple(patch_size))
    check_task(info, task, options)
    # Known from its source only; importing the file registers the builder.
    if info.build is None:
        importlib.import_module(info.module)
        info = _live[name]
    try:
        model = info.build(task, **options)  # type: ignore[misc]
    except RecipeError as error:
        raise ModelError(str(error)) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        # torch checks some values itself (a dropout above 1); without options of the user's it is a bug of ours
        given = ", ".join(f"{k}={v}" for k, v in options.items() if k != "deep_supervision" and v != info.options[k])
        if not given:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name} cannot be built with {given} ({reason}); change these options") from error
    model.info, model.task = info.fitted(options), task
    # A hook, so that no network repeats the check and every one has it.
    # before the checks that a builder may have added: those take rank and channels for granted
    model.register_forward_pre_hook(_check_input, prepend=True)
    return model


def _check_input(model: Any, args: tuple[Tensor, ...]) -> None:
    """Forward pre-hook: refuse an input of the wrong rank, channels or size in one line."""
    info, task, shape = model.info, model.task, tuple(args[0].shape)
    if len(shape) != task.dims + 2 or shape[1] != task.in_channels:
        spatial = "H, W" if task.dims == 2 else "D, H, W"
        raise ShapeError(f"{info.name}: input of shape {shape}, expected [B, {task.in_channels}, {spatial}]")
    if info.fixed and shape[2:] != task.patch_size:
        raise ShapeError(f"{info.name}: input size {shape[2:]}, but it was built for {task.patch_size} only")
    check_size(info, shape[2:], f"{info.name}: input size")
