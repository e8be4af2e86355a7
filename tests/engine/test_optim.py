"""Learning rates, decay groups and the choice of optimiser."""

import pytest
import torch
from torch import nn

from unetkit.engine.optim import build_optimizer, decay_groups, learning_rate
from unetkit.recipe.training import OptimizerSection, ScheduleSection


def rates(schedule: ScheduleSection, total: int = 100, per_epoch: int = 10) -> list[float]:
    return [learning_rate(schedule, 0.01, step, total, per_epoch) for step in range(total)]


def test_poly_is_nnunets_formula():
    assert rates(ScheduleSection()) == pytest.approx([0.01 * (1 - s / 100) ** 0.9 for s in range(100)])


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-4)
    for ours in rates(ScheduleSection(name="cosine", min_lr=1e-4)):
        assert ours == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["poly", "cosine", "constant"])
def test_warm_up_rises_in_equal_steps_and_meets_the_base(name):
    found = rates(ScheduleSection(name=name, warmup=1.0))
    assert found[:10] == pytest.approx([0.01 * (s + 1) / 11 for s in range(10)])
    assert max(found) == found[10] == pytest.approx(0.01)


def test_without_steps_the_rate_follows_the_time_that_is_over():
    schedule = ScheduleSection(warmup=0.5)
    assert learning_rate(schedule, 0.01, 4, None, 10, 0.9) == pytest.approx(0.01 * 5 / 6)
    for over in (0.0, 0.3, 1.0):
        assert learning_rate(schedule, 0.01, 700, None, 10, over) == pytest.approx(0.01 * (1 - over) ** 0.9)


def test_poly_stops_at_the_floor():
    assert min(rates(ScheduleSection(min_lr=0.002))) == 0.002


def test_adamw_spares_biases_norms_and_marked_parameters():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    marked = nn.Parameter(torch.zeros(3, 3))
    marked._no_weight_decay = True
    decayed, spared = decay_groups([*network.parameters(), marked], 0.1)
    assert decayed["params"] == [network[0].weight]
    assert decayed["weight_decay"] == 0.1
    assert len(spared["params"]) == 4
    assert spared["weight_decay"] == 0


def test_sgd_decays_all_but_marked_parameters():
    network = nn.Linear(2, 2)
    network.log_decay = nn.Parameter(torch.zeros(3))
    network.log_decay._no_weight_decay = True
    decayed, spared = build_optimizer(network, OptimizerSection(weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 2), (2,)]
    assert decayed["weight_decay"] == 0.1
    assert [p.shape for p in spared["params"]] == [(3,)]
    assert spared["weight_decay"] == 0


def test_sgd_without_momentum_needs_no_nesterov():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerSection(momentum=0.0))
    assert optimizer.defaults["nesterov"] is False


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_are_those_of_the_plain_optimiser(name):
    torch.manual_seed(0)
    network, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(network.state_dict())
    ours = build_optimizer(network, OptimizerSection(name=name, lr=0.1, momentum=0.9, weight_decay=0.01))
    if name == "sgd":
        plain: torch.optim.Optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=True)
    else:
        plain = torch.optim.AdamW(decay_groups(twin.parameters(), 0.01), lr=0.1)
    for _ in range(3):
        for net, optimizer in ((network, ours), (twin, plain)):
            optimizer.zero_grad()
            net(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    assert torch.allclose(network.weight, twin.weight, atol=1e-6)
    assert torch.allclose(network.bias, twin.bias, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_first_step_that_overflows_leaves_nothing_behind(name, monkeypatch):
    # memory that is not written holds whatever lay there: here, the worst
    monkeypatch.setattr(torch, "empty_like", lambda t, **options: torch.full_like(t, torch.nan, **options))
    torch.manual_seed(0)
    network, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(network.state_dict())
    for net, losses in ((network, (torch.inf, 1.0, 1.0)), (twin, (1.0, 1.0))):
        optimizer = build_optimizer(net, OptimizerSection(name=name, lr=0.1))
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        for factor in losses:
            optimizer.zero_grad()
            scaler.scale(factor * net(torch.ones(2, 4)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert network.weight.isfinite().all()
    assert torch.allclose(network.weight, twin.weight, atol=1e-6)
