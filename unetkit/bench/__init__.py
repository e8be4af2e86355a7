"""Which network is worth its cost: accuracy against parameters, operations and speed, with honest statistics."""

from unetkit.bench.anchors import Anchors, cohort_anchors, ubench_anchors
from unetkit.bench.uscore import Parts, u_score, u_score_parts

__all__ = ["Anchors", "Parts", "cohort_anchors", "u_score", "u_score_parts", "ubench_anchors"]
