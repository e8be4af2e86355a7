"""Cases that train and validate: the same voxels from memory, store and on the fly, also after a kill."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_training import CASES, job, make_preparation, make_recipe, parts, stepper

from unetkit.checkpoint import load_checkpoint
from unetkit.data.loader import LazyCases, TrainingLoader
from unetkit.engine.fit import fit
from unetkit.engine.prepare import training_cases, validation_cases
from unetkit.errors import DataError


@pytest.fixture
def preparation(tmp_path: Path):
    return make_preparation(tmp_path / "data")


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_do_not_depend_on_where_cases_are_kept(tmp_path: Path, preparation, workers: int) -> None:
    def batches(cache: str) -> list:
        recipe = make_recipe(tmp_path, cache, workers=workers if cache != "memory" else 0)
        source = TrainingLoader(training_cases(preparation, recipe, False), preparation.plan, recipe).batches(2)
        found = list(islice(source, 6))
        source.close()
        return found

    expected = batches("memory")
    for cache in ("disk", "none"):
        for ours, theirs in zip(batches(cache), expected, strict=True):
            assert ours.case_ids == theirs.case_ids
            assert ours.image.dtype == torch.float32
            assert torch.equal(ours.image, theirs.image)
            assert torch.equal(ours.label, theirs.label)


def test_references_do_not_depend_on_where_cases_are_kept(tmp_path: Path, preparation) -> None:
    memory, disk, none = (
        validation_cases(preparation, make_recipe(tmp_path, cache), False) for cache in ("memory", "disk", "none")
    )
    assert len(memory) == len(disk) == len(none) == 2
    for number in range(2):
        assert memory[number].prepared.data.dtype == np.float32
        for other in (disk[number], none[number]):
            np.testing.assert_array_equal(other.prepared.data, memory[number].prepared.data)
            np.testing.assert_array_equal(other.labels, memory[number].labels)


def test_auto_goes_to_memory_unless_a_store_is_named(tmp_path: Path, preparation) -> None:
    assert isinstance(training_cases(preparation, make_recipe(None, "auto"), False), list)
    assert isinstance(training_cases(preparation, make_recipe(tmp_path, "auto"), False), LazyCases)
    assert len(parts(tmp_path / "store")) == 2 * len(preparation.split.train)


def test_a_full_store_is_not_touched_again(tmp_path: Path, preparation) -> None:
    recipe = make_recipe(tmp_path, "disk")
    training_cases(preparation, recipe, False)
    before = parts(tmp_path / "store")
    training_cases(replace(preparation, plan=replace(preparation.plan, patch_size=(8, 8, 8))), recipe, False)
    assert parts(tmp_path / "store") == before
    shutil.rmtree(tmp_path / "store")  # it may be deleted at any time
    training_cases(preparation, recipe, False)
    assert parts(tmp_path / "store").keys() == before.keys()


def test_a_case_that_cannot_be_prepared_is_named_and_the_others_stay(tmp_path: Path, preparation) -> None:
    victim = preparation.dataset.case(CASES[1]).images[0]
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"{CASES[1]}.nii.gz: cannot be read"):
        training_cases(preparation, make_recipe(tmp_path, "disk"), False)


def test_killed_with_a_store_and_resumed_equals_undisturbed_from_memory(tmp_path: Path) -> None:
    """SIGKILL after a step, then on with the store that is there: bit for bit the weights of one left alone."""
    script = Path(__file__).with_name("stored_training.py")
    ended = subprocess.run([sys.executable, script, tmp_path], capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    before = parts(tmp_path / "store")
    fit(job(tmp_path, "run", "disk"), stepper())
    assert parts(tmp_path / "store") == before
    fit(job(tmp_path, "alone", "memory"), stepper())
    resumed, alone = (load_checkpoint(tmp_path / name, "last", training=True) for name in ("run", "alone"))
    assert [key for key in alone.weights if not torch.equal(alone.weights[key], resumed.weights[key])] == []
