"""What starts the jobs of a benchmark: processes of this machine, a Ray cluster, or Slurm."""

from __future__ import annotations

from pathlib import Path

from unetkit.bench.engines.base import Ended, Engine, Task
from unetkit.bench.engines.local import LocalEngine
from unetkit.errors import RecipeError
from unetkit.recipe.cluster import EngineSection

__all__ = ["Ended", "Engine", "Task", "open_engine"]


def open_engine(settings: EngineSection, folder: Path, device: str, jobs: int) -> Engine:
    """Return the engine that a recipe asks for; `jobs` at once if that is this machine.

    Raises RecipeError for a device that cannot be had, for a cluster that does not answer, and for a package that is
    not installed.
    """
    if settings.name == "local":
        return LocalEngine(device, jobs)
    _require_fitting(settings, device)
    # here, since both packages are extras
    if settings.name == "ray":
        from unetkit.bench.engines.on_ray import RayEngine

        return RayEngine(settings)
    from unetkit.bench.engines.on_slurm import SlurmEngine

    return SlurmEngine(settings, folder)


def _require_fitting(settings: EngineSection, device: str) -> None:
    """A cluster gives each job its GPUs, which are numbered from 0 in its process."""
    if ":" in device:
        raise RecipeError(
            f"device={device}: on a cluster the engine chooses the GPU; give device=cuda and engine.gpus=1"
        )
    if device == "cuda" and settings.gpus == 0:
        raise RecipeError("device=cuda: the jobs were given no GPU; give engine.gpus=1 as well")
