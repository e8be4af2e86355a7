"""The promises every network of the registry makes, in every dims it has. One alone: pytest -k 'unetpp'."""

import json
from functools import cached_property
from math import prod

import parity
import pytest
import torch

from unetkit.errors import ModelError, ShapeError
from unetkit.registry import catalog, create_model

CHANNELS, CLASSES = 2, 3  # neither 1 nor what any reference uses
MANY_VOXELS = 100_000
CASES = [(name, dims) for name, info in catalog().items() for dims in info.dims]
GOLDEN = json.loads(parity.GOLDEN.read_text(encoding="utf-8"))


class Case:
    """One network in one dims at its smallest size, with an input."""

    def __init__(self, name, dims):
        self.name, self.info, self.size = name, catalog()[name], parity.smallest(name, dims)
        self.narrow = parity.narrow(name, dims)
        # two samples where batch norm sees few voxels, one where they would only cost time
        self.batch = 2 if prod(self.size) < MANY_VOXELS else 1
        x = torch.randn(self.batch, CHANNELS, *self.size, generator=torch.Generator().manual_seed(0))
        self.large = parity.is_large(name)
        self.x = x.to(parity.device_of(name))
        self.model = self.build()

    @cached_property
    def supervised(self):
        return self.build(deep_supervision=True) if self.info.deep_supervision else self.build()

    def build(self, seed=0, **options):
        torch.manual_seed(seed)
        asked = {"in_channels": CHANNELS, "num_classes": CLASSES, "patch_size": self.size, **self.narrow, **options}
        with parity.device_of(self.name):
            return create_model(self.name, **asked).eval()

    @cached_property
    def output(self):
        return self.run(self.model)

    @torch.no_grad()
    def run(self, model):
        return model(self.x)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}d")
def case(request):
    return Case(*request.param)


def needs_numbers(case):
    """Skip where a network has shapes alone."""
    if case.large:
        pytest.skip(f"over {parity.LARGE:,} parameters: shapes and counts are tested, without memory for the numbers")


def test_output_shape(case):
    assert case.output.shape == (case.batch, CLASSES, *case.size)
    assert case.large or case.output.isfinite().all()


def test_smallest_legal_size(case):
    size = case.info.legal_size((1,) * len(case.size))
    if size == case.size:
        return  # every other test runs at this size
    with torch.no_grad():
        x = torch.zeros(1, CHANNELS, *size, device=case.x.device)
        assert case.build(patch_size=size)(x).shape == (1, CLASSES, *size)


def test_wrong_inputs_are_refused(case):
    with pytest.raises(ShapeError, match="expected"):
        case.model(case.x[0])
    with pytest.raises(ShapeError, match="expected"):
        case.model(case.x[:, :1])
    smallest = case.info.legal_size((1,) * len(case.size))
    wrong = tuple(n - 1 for n in smallest)
    if case.info.fixed:
        wrong = tuple(2 * n for n in case.size)
    if min(wrong) < 1:
        pytest.skip("every size is legal")
    with pytest.raises(ShapeError, match=r"size \(|built for"):
        case.model(torch.zeros(1, CHANNELS, *wrong))


def is_named(parameter, notes):
    """Whether notes name the module that holds a parameter, or the list that this module is in."""
    *_, last = (part for part in parameter.split(".")[:-1] if not part.isdigit())
    return parameter.split(".")[-2] in notes or last in notes


def test_gradients(case):
    """Every parameter learns, or the notes name the layer that holds it as unused."""
    model = case.supervised.train()
    outputs = model(case.x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(o.square().mean() for o in outputs).backward()
    model.eval()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    unexplained = [n for n in dead if "unused" not in case.info.notes or not is_named(n, case.info.notes)]
    assert not unexplained
    assert case.large or all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_state_dict_restores_the_output(case):
    needs_numbers(case)
    other = case.build(seed=1)
    weights = case.model.state_dict()
    assert any(not torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    other.load_state_dict(weights)
    torch.testing.assert_close(case.run(other), case.output, rtol=0, atol=0)


def test_bf16_is_close_to_fp32(case):
    needs_numbers(case)
    with torch.autocast("cpu", torch.bfloat16):
        half = case.run(case.model).float()
    assert (half - case.output).norm() < 0.1 * case.output.norm()


def test_parameter_count_is_the_published_one(case):
    dims = len(case.size)
    if dims not in case.info.params:
        pytest.skip("no count is published")
    channels, classes, size = case.info.params_at[dims]
    with torch.device("meta"):
        model = create_model(case.name, in_channels=channels, num_classes=classes, patch_size=size)
    assert parity.count(model) == case.info.params[dims]


def test_costs_are_those_stated(case):
    """`python tools/parity.py --cost NAME` prints what ModelInfo shall say."""
    dims = len(case.size)
    if not {dims} & {*case.info.gflops, *case.info.activation_mb}:
        pytest.skip("no cost is stated")
    found = parity.cost(case.name, dims)
    for key in ("gflops", "activation_mb"):
        if dims in getattr(case.info, key):
            assert getattr(case.info, key)[dims] == pytest.approx(found[key], rel=0.01), key


def test_deep_supervision(case):
    if not case.info.deep_supervision:
        with pytest.raises(ModelError, match="deep_supervision"):
            case.build(deep_supervision=True)
        return
    outputs = case.run(case.supervised)
    assert isinstance(outputs, tuple)
    assert outputs[0].shape == (case.batch, CLASSES, *case.size)
    sizes = [o.shape[2:].numel() for o in outputs]
    assert sizes == sorted(sizes, reverse=True)
    needs_numbers(case)
    # weights go either way, and the first output is the one that is left
    case.supervised.load_state_dict(case.model.state_dict())
    torch.testing.assert_close(case.run(case.supervised)[0], case.output, rtol=1e-4, atol=1e-5)
    case.model.load_state_dict(case.supervised.state_dict())


def test_golden_numbers(case):
    """Default builds stay what they were; `python tools/parity.py --golden` rewrites the numbers."""
    want = GOLDEN[f"{case.name} {len(case.size)}d"]
    got = parity.golden_of(case.model)
    assert (got["size"], got["params"]) == (want["size"], want["params"])
    assert case.large or got["mean"] == pytest.approx(want["mean"], rel=1e-3, abs=1e-5)
