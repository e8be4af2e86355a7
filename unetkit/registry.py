"""Every network by name: what it is, where it comes from, how to build it.

A model is a function under `@register(ModelInfo(...))` in `unetkit/models/`. The arguments of `ModelInfo` are
literals, so `catalog()` reads them from the source text: listing models needs neither torch nor the model files.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unetkit.errors import ModelError, RecipeError, ShapeError, nearest
from unetkit.types import TaskShape

if TYPE_CHECKING:
    from torch import Tensor, nn

Builder = TypeVar("Builder", bound=Callable[..., Any])
Choice = TypeVar("Choice")

FAMILIES = ("cnn", "transformer", "ssm", "xlstm", "rwkv", "hybrid")


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it.

    `source` is (repository, commit, licence) of the reference; `multiple` divides every side length (a tuple
    per axis where axes differ); `fixed`: the input must have the patch size the model was built for;
    `square`: all sides equal; `params` holds the published parameter count per dims, at `params_at`
    (in_channels, num_classes, patch_size) per dims; `needs` are optional packages; `options` maps
    each option of the builder to its default, filled in from its signature. `presets`: the planners of nnU-Net that
    were made for this network, its own default first.
    """

    title: str
    family: str
    year: int
    paper: str
    dims: tuple[int, ...]
    multiple: int = 1
    min_size: int = 1
    fixed: bool = False
    square: bool = False
    deep_supervision: bool = False
    source: tuple[str, str, str] = ("", "", "")
    params: dict[int, int] = field(default_factory=dict)
    params_at: dict[int, tuple[int, int, tuple[int, ...]]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    notes: str = ""
    name: str = ""
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    build: Callable[..., nn.Module] | None = None

    def legal_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest allowed size that holds `size` voxels per axis."""
        # -(-a // b) rounds up.
        up = [max(-(-n // self.multiple), -(-self.min_size // self.multiple), 1) * self.multiple for n in size]
        return tuple([max(up)] * len(up)) if self.square else tuple(up)


_live: dict[str, ModelInfo] = {}


def register(info: ModelInfo) -> Callable[[Builder], Builder]:
    """Add the decorated builder `(task, *, option=default, ...) -> Module` under its own name.

    Raises ModelError if the name is taken by another module's builder, or `info` states another one.
    """

    def add(build: Builder) -> Builder:
        name, module = build.__name__, build.__module__
        if info.name not in ("", name):
            raise ModelError(f"ModelInfo(name='{info.name}') on {name}: a model bears its builder's name; drop name")
        known = _live.get(name) or _catalog().get(name)
        if known and known.module != module:
            raise ModelError(f"model '{name}' is registered by {known.module} already; choose another name")
        _live[name] = replace(info, name=name, module=module, build=build, options=dict(build.__kwdefaults__ or {}))
        return build

    return add


def catalog() -> dict[str, ModelInfo]:
    """Return every model by name, without importing those of unetkit itself."""
    # What has been imported knows more (its builder), and may come from outside of the package.
    return {**_catalog(), **_live}


@cache
def _catalog() -> dict[str, ModelInfo]:
    found = {}
    # Reading the source takes milliseconds; importing it would bring in torch and MONAI.
    for path in sorted((Path(__file__).parent / "models").glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                for info in filter(None, map(_literal_info, node.decorator_list)):
                    where = f"unetkit.models.{path.stem}"
                    found[node.name] = replace(info, name=node.name, module=where, options=_literal_options(node))
    return dict(sorted(found.items()))


def _literal_info(decorator: ast.expr) -> ModelInfo | None:
    """Evaluate `register(ModelInfo(...))` written with literals; None for any other decorator."""
    if not (isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register" and decorator.args):
        return None
    call = decorator.args[0]
    if not isinstance(call, ast.Call):
        return None
    return ModelInfo(**{k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg})


def _literal_options(node: ast.FunctionDef) -> dict[str, Any]:
    def value(default: ast.expr | None) -> Any:
        try:
            return ast.literal_eval(default) if default else None
        except ValueError:
            # A default that is no literal is shown as it is written.
            return ast.unparse(default) if default else None

    return {a.arg: value(d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)}


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    dims: int | None = None,
    year: int | None = None,
    max_params: int | None = None,
) -> list[str]:
    """Return the sorted names of the models that match all that is given.

    `pattern` is a shell pattern on the name, `family` one of FAMILIES, `dims` 2 or 3, `year` that of the paper,
    `max_params` an upper bound on the published parameter count. Raises ModelError for an unknown family.
    """
    from fnmatch import fnmatchcase

    if family is not None and family not in FAMILIES:
        raise ModelError(f"family '{family}'{nearest(family, FAMILIES)}: choose one of {', '.join(FAMILIES)}")
    return sorted(
        name
        for name, info in catalog().items()
        if fnmatchcase(name, pattern)
        and (family is None or info.family == family)
        and (dims is None or dims in info.dims)
        and (year is None or info.year == year)
        and (max_params is None or any(n <= max_params for n in info.params.values()))
    )


def model_info(name: str) -> ModelInfo:
    """Return what is known of a model. Raises ModelError with the nearest name if there is none."""
    models = catalog()
    if name not in models:
        hint = nearest(name, models) or "; `unetkit list models` names them"
        raise ModelError(f"there is no model '{name}'{hint}; a model of your own exists once its file is imported")
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
    check_size(info, task.patch_size, f"{info.name}: patch_size")


def check_size(info: ModelInfo, size: Sequence[int], what: str) -> None:
    """Raise ShapeError, naming the next legal size, if a model cannot take side lengths `size`."""
    legal = info.legal_size(size)
    if tuple(size) != legal:
        rule = f"sides must be multiples of {info.multiple}" if info.multiple > 1 else "sides are restricted"
        rule += f", at least {info.min_size}" if info.min_size > info.multiple else ""
        rule += ", all equal" if info.square else ""
        raise ShapeError(f"{what} {tuple(size)}: {rule}; the next legal size is {legal}")


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
    model.info, model.task = info, task
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
