"""Every network against its reference: parameters, operations, and outputs under the same deterministic weights.

The numbers of entries marked heavy are compared by `python tools/parity.py --check --all`.
"""

import parity
import pytest

ENTRIES = list(parity.expectations())
LIGHT = [e for e in ENTRIES if "mean" in e and not e.get("heavy")]


def name(entry):
    return f"{entry['create']['name']}-{entry['id']}"


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_parameters_and_operations(entry):
    assert parity.count_differences(entry) == []


@pytest.mark.parametrize("entry", LIGHT, ids=name)
def test_outputs(entry):
    assert parity.number_differences(entry) == []


def test_fill_depends_on_shape_and_role_alone():
    layer, same, other = (parity.torch.nn.Conv2d(3, n, 3) for n in (5, 5, 6))
    weights = [parity.fill(m).weight for m in (layer, same, other)]
    assert parity.torch.equal(weights[0], weights[1])
    assert not parity.torch.equal(weights[0], weights[2][:5])


def test_ids_are_unique():
    ids = [name(e) for e in ENTRIES]
    assert len(ids) == len(set(ids))
