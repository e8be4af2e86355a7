"""A benchmark through Slurm, whose commands are played by processes of this machine (fake_slurm.py)."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cluster_bench import BROKEN_MODEL, MODELS, STEPS, log, opened, saved, started, steps, tree, under_way, waited

from unetkit.bench.claims import CLAIM, maker_of
from unetkit.bench.engines import open_engine
from unetkit.bench.folder import BROKEN, DONE, open_bench
from unetkit.bench.queue import run_bench
from unetkit.errors import RecipeError
from unetkit.recipe.bench import checked_bench
from unetkit.recipe.cluster import EngineSection

pytest.importorskip("submitit", reason="needs submitit: pip install 'unetkit[slurm]'")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of a Slurm that is on the PATH."""
    home = tmp_path / "slurm"
    home.mkdir()
    script = shutil.copy(Path(__file__).with_name("fake_slurm.py"), home / "fake_slurm.py")
    script.chmod(0o755)
    for name in COMMANDS:
        (home / name).symlink_to("fake_slurm.py")
    monkeypatch.setenv("PATH", str(home), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return home


def test_jobs_outlive_their_benchmark_and_a_preempted_one_goes_on_from_its_checkpoint(slurm, tmp_path):
    recipe = tmp_path / "small.yaml"
    engine = {"name": "slurm", "minutes": 60, "partition": "gpu", "at_once": 2, "options": {"constraint": "a100"}}
    recipe.write_text(json.dumps({**tree(tmp_path, *MODELS, BROKEN_MODEL), "engine": engine}))
    driver = started(f"recipe={recipe}", "engine.memory_gb=4")
    folder = opened(driver, tmp_path / "small")
    job = folder.jobs[0]
    waited(driver, lambda: job in under_way(folder))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before, ticket = saved(log(folder, job)), maker_of(folder.of(job)).ticket
    number = json.loads((folder.of(job) / "slurm.json").read_text())["id"]
    subprocess.run(["scancel", number, "--signal", "USR2"], check=True)

    # the next process looks after what the killed one had submitted, and submits nothing
    assert run_bench(folder, shown=False) == {DONE: 2, BROKEN: 1}
    calls = (slurm / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls if call.startswith(("sbatch", "scontrol requeue"))] == [
        "sbatch",
        "scontrol",
    ]
    assert f"scontrol requeue {number}" in calls
    assert "widths" in folder.reason(folder.jobs[2])
    assert not list(folder.path.rglob(CLAIM))
    assert log(folder, job)[: len(before)] == before
    assert steps(folder, job) == sorted(set(steps(folder, job)))
    assert steps(folder, job)[-1] == STEPS
    assert json.loads((folder.of(job) / "slurm.json").read_text())["ticket"] == ticket
    script = next(slurm.glob("*.sh")).read_text()
    for line in (
        "--array=0-2%2",
        "--partition=gpu",
        "--mem=4GB",
        "--time=60",
        "--constraint=a100",
        "--cpus-per-task=1",
    ):
        assert f"#SBATCH {line}\n" in script


def test_a_job_that_slurm_ends_without_a_word_is_a_failed_row(slurm, tmp_path, monkeypatch):
    (slurm / "srun").unlink()
    (slurm / "srun").write_text("#!/bin/sh\nexit 1\n")
    (slurm / "srun").chmod(0o755)
    monkeypatch.setattr("unetkit.bench.engines.on_slurm._ASK_EVERY", 1.0)
    folder = open_bench(checked_bench(tree(tmp_path, *MODELS)), "mine")
    assert run_bench(folder, engine=EngineSection(name="slurm", minutes=5), shown=False) == {BROKEN: 2}
    assert folder.reason(folder.jobs[0]).startswith("Slurm ended it (FAILED)")


def test_what_slurm_cannot_do_is_said_in_a_line(slurm, tmp_path):
    (slurm / "sbatch").unlink()
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    (slurm / "sbatch").chmod(0o755)
    folder = open_bench(checked_bench(tree(tmp_path, *MODELS)), "mine")
    with pytest.raises(RecipeError, match=r"sbatch refused the jobs: .*invalid partition"):
        run_bench(folder, engine=EngineSection(name="slurm", minutes=5, partition="gpu"), shown=False)
    assert not list(folder.path.rglob(CLAIM))
    (slurm / "srun").unlink()
    if shutil.which("srun") is None:
        with pytest.raises(RecipeError, match="no Slurm"):
            open_engine(EngineSection(name="slurm", minutes=5), folder.path, "auto", 1)
