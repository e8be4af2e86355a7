"""A benchmark of tiny networks on phantoms, and looks at how far its jobs are."""

import subprocess
import sys
import time

from unetkit.bench.folder import RUNNING, read_bench_folder
from unetkit.engine.log import read_log

PATIENCE = 600.0
STEPS = 300
CELLS = {"data": {"dataset": "phantom2d", "cases": 4, "generator": {"size": [32, 32]}, "patch_size": [32, 32]}}
MODELS = [{"name": "unet", "widths": [4, 8], "label": "tiny"}, {"name": "unet", "widths": [4, 6], "label": "other"}]
BROKEN_MODEL = {"name": "unext_s", "label": "broken", "widths": [1, 2]}


def tree(output, *models):
    # a checkpoint after each line of the log
    quick = {"workers": 0, "batch_size": 2, "augment": {"preset": "none"}, "checkpoint_steps": 20}
    return {
        "models": list(models),
        "datasets": {"cells": CELLS},
        "seeds": [0],
        "budget": {"steps": STEPS, "validations": 1},
        "recipe": {"train": quick},
        "jobs": 2,
        "output": str(output),
    }


def started(*words):
    return subprocess.Popen([sys.executable, "-m", "unetkit", "bench", *words], stderr=subprocess.PIPE, text=True)


def waited(driver, true):
    """Wait until something is true, which it has to become while the benchmark runs."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)


def opened(driver, folder):
    """The benchmark that a process has begun."""
    waited(driver, (folder / "bench.json").exists)
    return read_bench_folder(folder)


def log(folder, job):
    path = folder.of(job) / "run" / "log.jsonl"
    return read_log(path) if path.exists() else []


def saved(records):
    """The records before the last checkpoint, which is known to be whole since there is a later record."""
    last = 20 * ((records[-1]["step"] - 1) // 20)
    found = [record for record in records if record["step"] <= last]
    assert found
    return found


def steps(folder, job):
    return [record["step"] for record in log(folder, job) if "loss" in record]


def under_way(folder):
    """Jobs that run and have saved a checkpoint or two."""
    return [job for job in folder.jobs if folder.state(job) == RUNNING and max(steps(folder, job), default=0) > 40]
