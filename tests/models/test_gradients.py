"""One training step's gradients equal the reference's: their norms were noted where the reference itself could run.

A forward pass can hide a term that is nearly zero there; its gradient shows it. Weights, image and target are drawn by
the rule of tools/parity.py, the loss is the mean cross-entropy in training mode, nothing is dropped, all in float64.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F

FILES = sorted(Path(__file__).with_name("gradients").glob("*.json"))
GOLDEN = [want for path in FILES for want in json.loads(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("want", GOLDEN, ids=lambda want: want["id"])
def test_gradient_norms(want: dict[str, Any]) -> None:
    model = parity.fill(parity.built(want).double()).train()
    rng = np.random.RandomState(parity.INPUT_SEED)
    image = torch.from_numpy(rng.standard_normal(want["input"]))
    batch, _, *size = want["input"]
    target = torch.from_numpy(rng.randint(0, want["create"]["num_classes"], (batch, *size)))
    loss = F.cross_entropy(model(image), target)
    loss.backward()
    assert loss.item() == pytest.approx(want["loss"], rel=1e-8)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == want["norms"].keys()
    floor = 1e-8 * max(want["norms"].values())
    assert norms == pytest.approx(want["norms"], rel=1e-6, abs=floor)
