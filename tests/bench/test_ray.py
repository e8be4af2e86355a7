"""A benchmark on a Ray cluster of two nodes, one of which is killed in the middle, comes to what it comes to here."""

import json
import os
import signal
import socket
from contextlib import suppress

import pytest
from cluster_bench import (
    BROKEN_MODEL,
    MODELS,
    PATIENCE,
    STEPS,
    log,
    opened,
    saved,
    started,
    steps,
    tree,
    under_way,
    waited,
)

from unetkit.bench.claims import CLAIM, Maker, maker_of
from unetkit.bench.engines import open_engine
from unetkit.bench.folder import BROKEN, DONE, open_bench
from unetkit.bench.queue import run_bench
from unetkit.recipe.bench import checked_bench
from unetkit.recipe.cluster import EngineSection

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'unetkit[ray]'")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster whose machines know the user's home of the test, where generated data are kept."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        yield made
        ray.shutdown()
        made.shutdown()


def parent(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def under_way_on(node, folder):
    """Jobs whose process, started by a worker, runs on a Ray node."""
    (raylet,) = [process.process.pid for process in node.all_processes["raylet"]]
    with suppress(OSError):
        return [job for job in under_way(folder) if parent(parent(maker_of(folder.of(job)).pid)) == raylet]
    return []  # one came to its end meanwhile


def test_a_killed_node_loses_no_job_and_changes_no_score(cluster, tmp_path):
    second = cluster.add_node(**NODE)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(json.dumps(tree(tmp_path, *MODELS, BROKEN_MODEL)))
    driver = started(f"recipe={recipe}", "bench.engine=ray", f"engine.address={cluster.address}")
    folder = opened(driver, tmp_path / "small")
    tiny, other, broken = folder.jobs
    waited(driver, lambda: under_way_on(second, folder))
    (lost,) = under_way_on(second, folder)
    before = saved(log(folder, lost))
    cluster.remove_node(second, allow_graceful=False)

    said = driver.communicate(timeout=PATIENCE)[1]
    assert driver.returncode == 2, said  # of the failed job
    assert f"{lost.name}: its machine was lost" in said
    assert [folder.state(job) for job in folder.jobs] == [DONE, DONE, BROKEN]
    assert "widths" in folder.reason(broken)
    assert not list(folder.path.rglob(CLAIM))

    # not from scratch: all that it had written before its last checkpoint stands there still, times and all
    assert log(folder, lost)[: len(before)] == before
    here = open_bench(checked_bench(tree(tmp_path, *MODELS)), "here")
    assert run_bench(here, shown=False) == {DONE: 2}
    for job in (tiny, other):
        assert folder.result(job)["scores"] == here.result(here.job(job.name))["scores"]
        assert steps(folder, job) == steps(here, here.job(job.name))


def test_ctrl_c_saves_the_checkpoints_and_this_machine_goes_on(cluster, tmp_path, capsys):
    folder = open_bench(checked_bench(tree(tmp_path, MODELS[0])), "mine")
    (job,) = folder.jobs
    driver = started(f"run={folder.path}", "engine=ray", f"engine.address={cluster.address}")
    waited(driver, lambda: under_way(folder))
    process = maker_of(folder.of(job)).pid
    driver.send_signal(signal.SIGINT)
    assert driver.communicate(timeout=PATIENCE)[1].endswith("unetkit: stopped\n")
    assert driver.returncode == 130
    assert not list(folder.path.rglob(CLAIM))
    reached = steps(folder, job)
    assert 0 < reached[-1] < STEPS
    assert run_bench(folder, shown=False) == {DONE: 1}
    assert steps(folder, job)[: len(reached)] == reached

    engine = open_engine(EngineSection(name="ray", address=cluster.address, cpus=64), folder.path, "auto", 1)
    assert "no machine of the Ray cluster has engine.cpus=64" in capsys.readouterr().err
    assert engine.gone(Maker(socket.gethostname(), process))
    assert not engine.gone(Maker(socket.gethostname(), os.getpid()))
    assert not engine.gone(Maker("no_machine_of_this_cluster", process))
    engine.stop()
