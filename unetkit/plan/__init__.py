"""From what a data set is to how a network is trained on it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unetkit.plan.plan import Normalization, Plan

if TYPE_CHECKING:
    from unetkit.plan.fingerprint import Fingerprint, measure
    from unetkit.plan.nnunet import nnunet_plan
    from unetkit.plan.nnunet_files import read_nnunet_plans
    from unetkit.plan.nnunet_write import write_nnunet_plans
    from unetkit.plan.rules import configurations_for, decide

__all__ = [
    "Fingerprint",
    "Normalization",
    "Plan",
    "configurations_for",
    "decide",
    "measure",
    "nnunet_plan",
    "read_nnunet_plans",
    "write_nnunet_plans",
]

_HOME = {
    "Fingerprint": "fingerprint",
    "configurations_for": "rules",
    "decide": "rules",
    "measure": "fingerprint",
    "nnunet_plan": "nnunet",
    "read_nnunet_plans": "nnunet_files",
    "write_nnunet_plans": "nnunet_write",
}


def __getattr__(name: str) -> Any:
    # on first use: rooms below this one import plan.plan and must not draw in what stands above them
    if name not in _HOME:
        raise AttributeError(f"module 'unetkit.plan' has no attribute '{name}'")
    return getattr(importlib.import_module(f"unetkit.plan.{_HOME[name]}"), name)
