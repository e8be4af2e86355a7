"""From what a data set is to how a network is trained on it."""

from unetkit.plan.plan import Normalization, Plan

__all__ = ["Normalization", "Plan"]
