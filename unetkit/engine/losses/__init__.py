"""What training minimises; `build_loss` turns the recipe's section into one module."""

from unetkit.engine.losses.build import SegmentationLoss, build_loss, supervision_weights

__all__ = ["SegmentationLoss", "build_loss", "supervision_weights"]
