"""One step: accumulation, clipping, precision, averaging, compiling."""

import pytest
import torch
from tiny_task import SquareLoader, Squares, TinyNet, build, small_recipe
from torch import nn
from torch._inductor import config as inductor

from unetkit.engine.device import choose_memory_format, library_switches
from unetkit.engine.ema import Ema
from unetkit.engine.precision import choose_format
from unetkit.engine.step import step_seed

CPU = torch.device("cpu")


def weights(stepper) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in stepper.network.parameters()])


def test_accumulated_batches_equal_one_large_batch():
    whole = SquareLoader(batch_size=4).batch(0)
    halves = [Squares(whole.image[i : i + 2], whole.label[i : i + 2], whole.case_ids[i : i + 2]) for i in (0, 2)]
    one, two = (build(small_recipe(precision="fp32"), TinyNet(norm=False, dropout=0.0)) for _ in range(2))
    two.network.load_state_dict(one.network.state_dict())
    for step in range(3):
        a, b = one([whole], step, 0, 0.1), two(halves, step, 0, 0.1)
        assert torch.allclose(a, b, rtol=1e-4)
    assert torch.allclose(weights(one), weights(two), atol=1e-6)


def test_clipping_bounds_the_update_by_rate_times_norm():
    stepper = build(small_recipe(clip_norm=1e-3, optimizer={"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}))
    before = weights(stepper)
    _, norm = stepper([SquareLoader().batch(0)], 0, 0, 1.0)
    assert norm > 1e-3
    assert (weights(stepper) - before).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_step_follows_from_seed_and_step_alone():
    ends = []
    for disturb in (1, 2):
        stepper = build(small_recipe())
        torch.manual_seed(disturb)
        stepper([SquareLoader().batch(0)], 5, 0, 0.1)
        ends.append(weights(stepper))
    assert torch.equal(*ends)
    assert len({step_seed(seed, step) for seed in (-1, 0, 1) for step in range(100)}) == 300


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_fp32(precision):
    losses = {}
    for name in ("fp32", precision):
        stepper = build(small_recipe(precision=name))
        losses[name] = [stepper([SquareLoader().batch(s)], s, 0, 0.05)[0].item() for s in range(8)]
    assert losses[precision] == pytest.approx(losses["fp32"], abs=0.03)
    assert losses[precision][-1] < losses[precision][0]


def test_auto_precision_on_a_cpu_is_bf16_only_with_units_for_it():
    units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    expected = "bf16" if units else "fp32"
    assert choose_format("auto", CPU) == expected
    assert choose_format("fp16", CPU) == "fp16"


def test_average_follows_slowly_and_copies_running_statistics():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    ema = Ema(network, 0.9)
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        ema.network[0].weight.fill_(0.0)
        network[1].running_mean.fill_(3.0)
    ema.update(network, step=10_000)
    assert ema.network[0].weight.item() == pytest.approx(0.1)
    assert ema.network[1].running_mean.item() == 3.0
    ema.update(network, step=0)  # at the start the share of the old average is a tenth
    assert ema.network[0].weight.item() == pytest.approx(0.91)


FREE, INSTANCE = nn.Conv3d(1, 1, 3), nn.Sequential(nn.Conv3d(1, 1, 3), nn.InstanceNorm3d(1))


@pytest.mark.parametrize(
    ("asked", "network", "device", "half", "last"),
    [
        (True, INSTANCE, "cuda", False, True),
        (False, FREE, "cpu", True, False),
        ("auto", FREE, "cuda", True, True),
        ("auto", FREE, "cuda", False, False),
        ("auto", INSTANCE, "cuda", True, False),
        ("auto", FREE, "cpu", False, True),
        ("auto", INSTANCE, "cpu", True, False),
    ],
)
def test_memory_format(asked, network, device, half, last):
    chosen = choose_memory_format(asked, network, 3, torch.device(device), half)
    assert chosen is (torch.channels_last_3d if last else torch.contiguous_format)


def test_channels_last_changes_the_layout_not_the_result():
    # dropout draws its mask in memory order, so it is left out
    plain, last = (build(small_recipe(channels_last=c), TinyNet(dropout=0.0)) for c in (False, True))
    last.network.load_state_dict(plain.network.state_dict())
    batch = SquareLoader().batch(0)
    assert last.place(batch)[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain([batch], 0, 0, 0.1), last([batch], 0, 0, 0.1), rtol=1e-5)


def test_without_a_compiler_training_goes_on_and_says_why():
    stepper, plain = build(small_recipe(compile=True)), build(small_recipe())
    plain.network.load_state_dict(stepper.network.state_dict())
    batch = SquareLoader().batch(0)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        first = stepper([batch], 0, 0, 0.1)
    assert torch.equal(first, plain([batch], 0, 0, 0.1))
    assert stepper.fallback is not None
    assert "\n" not in stepper.fallback
    assert torch.equal(stepper.network.body[1].running_mean, plain.network.body[1].running_mean)


def test_switches_are_undone():
    threads = torch.get_num_threads()
    with library_switches(CPU, deterministic=True, threads=threads + 1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == threads + 1
        stepper = build(small_recipe())
        stepper([SquareLoader().batch(0)], 0, 0, 0.1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
