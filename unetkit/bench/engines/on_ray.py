"""Jobs of a benchmark as tasks of a Ray cluster (https://docs.ray.io), whose machines share the benchmark's folder."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

from unetkit.bench.claims import Maker, alive
from unetkit.bench.engines.base import Ended, Engine, Task, carry_out
from unetkit.data.formats.files import first_line
from unetkit.errors import RecipeError
from unetkit.recipe.cluster import EngineSection

_GIB = 2**30
_MANY, _ANSWER = 10_000, 20.0
"""Tasks that Ray has to hold at once without a limit of ours, and seconds in which a machine has to answer."""


class RayEngine(Engine):
    """A task for each job; Ray finds a machine with room, and tells when one was lost."""

    def __init__(self, settings: EngineSection) -> None:
        self.ray, self.settings = _package(), settings
        self.joined = not self.ray.is_initialized()
        if self.joined:
            _join(self.ray, settings.address)
        _tell_if_none_fits(self.ray, settings)
        memory = None if settings.memory_gb is None else int(settings.memory_gb * _GIB)
        needs = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "memory": memory}
        # Ray would begin a lost task again by itself, but not note it, nor wait for its process to end
        self.remote = self.ray.remote(max_retries=0, **needs)(carry_out)
        self.tasks: dict[Any, Task] = {}

    def room(self) -> int:
        """Return how many more tasks Ray may have; those without a machine wait for one."""
        return (self.settings.at_once or _MANY) - len(self.tasks)

    def start(self, tasks: Sequence[Task]) -> None:
        """Hand tasks to Ray."""
        for task in tasks:
            self.tasks[self.remote.remote(task)] = task

    def ended(self) -> list[tuple[Task, Ended]]:
        """Return the tasks that Ray says have ended, by themselves or with their machine."""
        if not self.tasks:
            return []
        over, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        return [(self.tasks.pop(ref), self._how(ref)) for ref in over]

    def stop(self) -> None:
        """Cancel the tasks, and wait until their checkpoints are saved; a second Ctrl-C ends them at once."""
        left = list(self.tasks)
        try:
            for ref in left:
                self.ray.cancel(ref, force=False)
            if left:
                self.ray.wait(left, num_returns=len(left))
        except KeyboardInterrupt:
            for ref in left:
                self.ray.cancel(ref, force=True)
            raise
        finally:
            if self.joined:
                self.ray.shutdown()

    def gone(self, maker: Maker) -> bool:
        """Ask the machine of a claim whether its process runs; one that Ray does not know may be none of its own."""
        nodes = [node for node in self.ray.nodes() if node["NodeManagerHostname"] == maker.host]
        lives = [node["NodeID"] for node in nodes if node["Alive"]]
        if not lives:
            return bool(nodes)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(lives[0], soft=False)
        asked = self.ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(alive).remote(maker.pid)
        try:
            return not self.ray.get(asked, timeout=_ANSWER)
        except self.ray.exceptions.RayError:  # no answer, so nothing is known
            return False

    def _how(self, ref: Any) -> Ended:
        faults = self.ray.exceptions
        try:
            ended: Ended = self.ray.get(ref)
            return ended
        except (faults.RayTaskError, faults.RuntimeEnvSetupError) as error:
            return Ended(f"Ray could not start it: {first_line(getattr(error, 'cause', None) or error)}")
        except faults.OutOfMemoryError:
            return Ended("Ray ended it to save memory; give engine.memory_gb=NUMBER", lost=True)
        except faults.RayError as error:
            return Ended(f"its machine was lost ({type(error).__name__})", lost=True)


def _package() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RecipeError("engine=ray needs the package 'ray'; run: pip install 'unetkit[ray]'") from error
    return ray


def _join(ray: Any, address: str | None) -> None:
    try:
        if address is not None:
            # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        where = "" if address is None else f".address={address}"
        raise RecipeError(
            f"engine{where}: no Ray cluster answers there ({first_line(error)}); give HOST:PORT as `ray start --head` "
            "prints it, or drop the key"
        ) from error


def _tell_if_none_fits(ray: Any, settings: EngineSection) -> None:
    """Ray waits for machines to join without a word, as some clusters grow on demand."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": settings.cpus, "GPU": settings.gpus, "memory": (settings.memory_gb or 0) * _GIB}
    if not any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in nodes):
        print(
            f"unetkit: no machine of the Ray cluster has engine.cpus={settings.cpus} engine.gpus={settings.gpus} "
            f"engine.memory_gb={settings.memory_gb} now; the jobs wait until one joins",
            file=sys.stderr,
        )
