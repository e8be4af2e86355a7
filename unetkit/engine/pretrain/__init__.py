"""Pretraining: a network learns from images alone, in the loop that trains segmentations."""

from unetkit.engine.pretrain.build import check_pretraining, for_pretraining, views_of
from unetkit.engine.pretrain.transfer import start_from

__all__ = ["check_pretraining", "for_pretraining", "start_from", "views_of"]
