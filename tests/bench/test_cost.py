"""Rows of cost: what is counted, timed, and said of what cannot be."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unetkit.bench import costs
from unetkit.bench.cost import CostRow, Setting, check_names, check_size, cost_rows
from unetkit.bench.folder import open_bench
from unetkit.bench.timing import Timing, best_batch, time_network, used_joules
from unetkit.errors import ModelError, ShapeError
from unetkit.recipe.bench import checked_bench
from unetkit.registry import catalog


def row(name, **told):
    (found,) = cost_rows([name], Setting((64, 64), **told.pop("setting", {})), **told)
    return found


def test_a_counted_row_has_no_times():
    found = row("unext_s")
    assert isinstance(found, CostRow)
    assert found.gmacs == found.gflops / 2
    assert found.ms is None
    # weights, gradients, two moments, and more
    assert found.step_mb > 4 * 4 * found.params_m


def test_a_timed_row_stands_beside_the_reference():
    found = row("unext_s", seconds=0.2, thop=True)
    assert found.ms_p10 <= found.ms <= found.ms_p90
    assert found.per_second == pytest.approx(1e3 / found.ms)
    assert 0 < found.to_reference < 1
    assert found.gmacs != found.gflops / 2


def test_a_model_that_would_take_too_long_is_counted_and_said_so():
    (found,) = cost_rows(["cmunext"], Setting((64, 64)), seconds=0.001)
    assert "not timed: 7 passes would take about" in found.note
    assert found.gflops


def test_what_training_takes_is_counted_or_said_why_not():
    (found,) = cost_rows(["unet"], Setting((30, 30)))
    assert (found.activation_mb, found.step_mb) == (None, None)
    assert found.note.startswith("no memory of training: of one image its batch norm has a single voxel left")
    (timed,) = cost_rows(["unet"], Setting((30, 30)), seconds=1e-9)
    assert timed.note.startswith(f"{found.note}; not timed: 7 passes")
    assert not row("unext_s").note


def test_a_size_that_the_model_refuses_becomes_the_next_legal_one():
    (found,) = cost_rows(["unext_s"], Setting((65, 64)))
    assert found.size == catalog()["unext_s"].legal_size((65, 64))


def test_models_of_other_dims_are_left_out_and_unknown_ones_refused():
    assert list(cost_rows(["gcn_multistructure"], Setting((32, 32, 32)))) == []
    assert "swin_unet" in check_names(None, 2)
    with pytest.raises(ModelError, match="no such model for 3D"):
        check_names(["gcn_multistructure"], 3)
    with pytest.raises(ModelError, match=r"models=\[\]: names none; give names"):
        check_names([], 2)
    with pytest.raises(ShapeError, match="two or three side lengths"):
        check_size([64])


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A benchmark with one done job, and the seconds that each of its models was given so far."""
    tree = {"models": ["unet"], "datasets": {"cells": {"data": {"dataset": "phantom2d"}}}, "budget": {"steps": 5}}
    folder = open_bench(checked_bench({**tree, "seeds": [0], "output": str(tmp_path)}), "b")
    result = {"scores": {"cases": {}}, "zero_shot": {}, "groups": {}, "pretrained": False}
    folder.write_result(folder.jobs[0], {**result, "patch_size": [32, 32], "in_channels": 1, "num_classes": 2})
    given = []

    def measured(name, options, setting, timer, thop):
        given.append(timer)
        return CostRow(name, "cnn", 2015, setting.size, ms=5.0 if timer > 1 else None)

    monkeypatch.setattr(costs, "cost_row", measured)
    monkeypatch.setattr(costs, "Timer", lambda setting, seconds, throughput: seconds)
    return folder, given


def test_what_was_timed_is_kept_and_what_was_not_is_tried_with_more_time(counted):
    folder, given = counted
    for seconds in (1, 1, 0.5, 2, 2, 9):
        found = costs.bench_costs(folder, seconds, "cpu")
    assert given == [1, 2]
    assert found["unet", "cells"]["ms"] == 5.0


def test_each_data_set_is_counted_as_its_anchors_ask_for(counted):
    folder, given = counted
    first = costs.bench_costs(folder, 2, "cpu")["unet", "cells"]
    frozen = replace(folder, bench=folder.bench.model_copy(update={"anchors": {"cells": "ubench:dsb"}}))
    second = costs.bench_costs(frozen, 2, "cpu")["unet", "cells"]
    assert (first["size"], second["size"], len(given)) == ((32, 32), (256, 256), 2)


@pytest.mark.parametrize("cost", [{}, 5, None, {"name": "unet", "ms": 3.0}])
def test_costs_that_are_damaged_or_lack_columns_are_counted_anew(counted, cost):
    folder, given = counted
    costs.bench_costs(folder, 2, "cpu")
    path = folder.path / "costs.json"
    tree = json.loads(path.read_text())
    tree["rows"][0]["cost"] = cost
    path.write_text(json.dumps(tree))
    assert costs.bench_costs(folder, 2, "cpu")["unet", "cells"]["ms"] == 5.0
    assert given == [2, 2]


def test_times_are_quantiles_of_passes_in_evaluation():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    found = time_network(network, torch.randn(4, 1, 16, 16), "fp32", seconds=0.01)
    assert not network.training
    assert found.passes >= 5
    assert found.batch == 4
    assert found.images_per_second == pytest.approx(4 / found.median)
    assert (found.peak_bytes, found.joules) == (None, None)


def test_the_best_batch_is_the_last_that_pays():
    speeds = {1: 10, 2: 18, 4: 30, 8: 31, 16: 100}
    best = best_batch(lambda b: Timing(b, b / speeds[b], 0, 0, 5))
    assert best.batch == 4


def test_a_batch_that_does_not_fit_ends_the_search(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def measure(batch):
        if batch > 2:
            raise torch.OutOfMemoryError("no room")
        return Timing(batch, 1.0, 0, 0, 5)

    assert best_batch(measure).batch == 2


def test_energy_is_what_nvml_counts_of_the_gpu_that_torch_means(monkeypatch):
    pynvml = pytest.importorskip("pynvml")
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="11aa-22bb"))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: asked.append(uuid) or "handle")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", {"handle": 2_500}.__getitem__)
    # NVML counts thousandths of a joule, and knows GPUs by their names
    assert used_joules(torch.device("cuda:0")) == 2.5
    assert asked == ["GPU-11aa-22bb"]

    def refuse(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    assert used_joules(torch.device("cuda:0")) is None
    assert used_joules(torch.device("cpu")) is None
