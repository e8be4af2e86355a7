"""Memory of a step counted without content, against what torch's profiler sees a real one allocate."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from unetkit.engine.losses import build_loss
from unetkit.plan.memory import MARGIN_GB, Cost, trace_step
from unetkit.recipe.training import LossSection
from unetkit.registry import create_model
from unetkit.types import Labels

CLASSES = 5
LABELS = Labels(tuple("abcd"), ((1,), (2,), (3,), (4,)))
# small, but wide enough for torch's large-input convolutions, which need no scratch memory
NETWORKS = {
    "plain_unet": ((32, 32, 32), {"widths": [8, 16, 32], "strides": [1, 2, 2], "deep_supervision": True}),
    "unet": ((128, 128), {"widths": [8, 16, 32, 64]}),
    "unetpp": ((64, 64), {"widths": [8, 16, 32]}),
}


def counted(name, batch, half=None, kept=1) -> Cost:
    size, options = NETWORKS[name]
    with torch.device("meta"):
        network = create_model(name, num_classes=CLASSES, patch_size=size, **options).train()
        loss = build_loss(LossSection(), LABELS)
    shape = (batch, 1, *size)
    return trace_step(network, loss, shape, shape, half=half, kept=kept)


def allocated(name, batch, half):
    """Peak bytes of a real step, by torch's own record of each allocation."""
    size, options = NETWORKS[name]
    network = create_model(name, num_classes=CLASSES, patch_size=size, **options).train()
    loss, optimizer = build_loss(LossSection(), LABELS), torch.optim.SGD(network.parameters(), 0.1, 0.9, fused=True)

    def step():
        image, label = torch.zeros(batch, 1, *size), torch.zeros(batch, 1, *size, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(network(image), label)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    weights = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    return peak + weights + sum(p.nbytes for p in network.parameters())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_step_takes_what_was_counted(name, half):
    count = counted(name, 2, torch.bfloat16 if half else None)
    assert count.memory == pytest.approx(allocated(name, 2, half), rel=0.1)


def test_memory_is_a_constant_and_so_much_a_sample():
    two, four, eight = (counted("plain_unet", b).memory for b in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.01)
    assert counted("plain_unet", 4).flops == 2 * counted("plain_unet", 2).flops


def test_what_is_kept_per_parameter_counts_in_full():
    with torch.device("meta"):
        network = create_model("unet", patch_size=(128, 128), num_classes=CLASSES, widths=[8, 16, 32, 64])
    parameters = 4 * sum(p.numel() for p in network.parameters())
    assert counted("unet", 2, kept=3).memory - counted("unet", 2, kept=1).memory == 2 * parameters


def test_counting_a_large_network_allocates_nothing():
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    with torch.device("meta"):
        network = create_model("unet", num_classes=118, patch_size=(160,) * 3, deep_supervision=True).train()
        loss = build_loss(LossSection(), Labels(tuple(map(str, range(117))), tuple((i,) for i in range(1, 118))))
    shape = (4, 1, 160, 160, 160)
    cost = trace_step(network, loss, shape, shape, half=torch.bfloat16, kept=2)
    # logits of 118 classes alone, in fp32
    assert cost.gb("cuda") > 4 * 118 * 160**3 * 4 / 1e9
    assert cost.gb("cuda") - cost.memory / 1e9 == pytest.approx(MARGIN_GB["cuda"])
    assert all(p.grad is None and p.is_meta for p in network.parameters())
    assert before == (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)
