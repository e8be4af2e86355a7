"""unetkit: segment medical images with the U-Net family.

The public names are loaded when they are first used, so that `import unetkit` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unetkit import bench, metrics, plan
    from unetkit.engine.train import train
    from unetkit.errors import UnetkitError
    from unetkit.evaluation import evaluate
    from unetkit.infer.load import load
    from unetkit.infer.predictor import Predictor
    from unetkit.registry import create_model, list_models, register
    from unetkit.types import Volume

__all__ = [
    "Predictor",
    "UnetkitError",
    "Volume",
    "bench",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "metrics",
    "plan",
    "register",
    "train",
]

_ROOMS = ("bench", "metrics", "plan")

_HOME = {
    "Predictor": "unetkit.infer.predictor",
    "UnetkitError": "unetkit.errors",
    "Volume": "unetkit.types",
    "create_model": "unetkit.registry",
    "evaluate": "unetkit.evaluation",
    "list_models": "unetkit.registry",
    "load": "unetkit.infer.load",
    "register": "unetkit.registry",
    "train": "unetkit.engine.train",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"unetkit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'unetkit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
