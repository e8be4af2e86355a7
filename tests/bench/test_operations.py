"""Counts of operations against formulas, published figures of thop, and what a pass really keeps."""

import pytest
import torch
from torch import nn

from unetkit import create_model
from unetkit.bench.operations import flops, kept_bytes, moved_bytes, thop_macs, trainable, without_content
from unetkit.blocks.scan import selective_scan


def counted(name, size=256, **options):
    return without_content(lambda: create_model(name, in_channels=3, num_classes=1, patch_size=(size, size), **options))


def test_a_convolution_is_two_operations_a_weight_and_place():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert flops(layer, (2, 3, 10, 12)) == 2 * 2 * 8 * 10 * 12 * 3 * 9
    assert thop_macs(layer, (2, 3, 10, 12)) == 2 * 8 * 10 * 12 * 3 * 9


# U-Bench's own counts of these networks, 3 x 256 x 256 to one output, and their parameters, by thop.
@pytest.mark.parametrize(
    ("name", "options", "macs", "params"),
    [
        ("unet", {"variant": "u_bench"}, 65_522_368_512, 34_527_041),
        ("attention_unet", {}, 66_631_848_000, 34_878_573),
        ("cmunext", {}, 7_417_733_120, 3_149_185),
        ("unet3p", {}, 199_742_456_000, 26_971_777),
    ],
)
def test_counts_by_the_rules_of_thop_are_those_of_u_bench(name, options, macs, params):
    network = counted(name, **options)
    assert trainable(network) == params
    assert thop_macs(network, (1, 3, 256, 256)) == pytest.approx(macs, rel=1e-8)


def test_attention_is_counted_by_torch_and_unseen_by_thop():
    network = without_content(lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    network.requires_grad_(True)
    long, short = flops(network, (1, 64, 16)), flops(network, (1, 32, 16))
    assert long > 2 * short
    assert thop_macs(network, (1, 64, 16)) == 2 * thop_macs(network, (1, 32, 16))


def test_counting_leaves_what_learns_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    network[0].requires_grad_(False)
    flops(network, (1, 3, 8, 8))
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]


def test_kept_maps_are_those_that_the_backward_pass_reads():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    # the image, and the output of ReLU, which it and the second convolution share
    assert kept_bytes(network, (1, 3, 8, 8)) == 4 * 64 * (3 + 4)


def test_counts_take_no_memory_for_content():
    network = counted("unet3p")
    assert {p.device for p in network.parameters()} == {torch.device("meta")}


def test_bytes_moved_are_those_of_what_operators_take_and_give():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Identity())
    taken, weights, given = 2 * 3 * 10 * 12, 8 * 3 * 9 + 8, 2 * 8 * 10 * 12
    assert moved_bytes(layers, (2, 3, 10, 12)) == 4 * (taken + weights + given)


def test_a_scan_moves_its_tokens_once_however_many_states_it_has():
    class Scan(nn.Module):
        def __init__(self, states):
            super().__init__()
            self.rates = nn.Parameter(-torch.ones(6, states))
            self.gates = nn.Parameter(torch.ones(1, states, 20))

        def forward(self, x):
            return selective_scan(x, x, self.rates, self.gates, self.gates)

    tokens = [moved_bytes(Scan(states), (1, 6, 20)) - 4 * (6 * states + 2 * 20 * states) for states in (2, 32)]
    # x and its steps taken, y given: no state of any token
    assert tokens == [4 * 3 * 6 * 20] * 2
