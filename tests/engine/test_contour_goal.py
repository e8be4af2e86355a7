"""Training of networks that find contours: what their loss compares, and what it refuses."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.draw import ellipse

from unetkit.blocks.contours import Landmarks, pool_rings
from unetkit.data.contours import contour_points, outward_distances
from unetkit.engine.goal import with_loss
from unetkit.engine.losses.contours import ContourLoss, check_contours
from unetkit.engine.step import Stepper
from unetkit.engine.train import train
from unetkit.errors import RecipeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe import resolve
from unetkit.registry import create_model
from unetkit.types import Labels

SIDE = 64
RINGS = ((12,), (10,))
PLAN = Plan(
    patch_size=(SIDE, SIDE),
    batch_size=2,
    channels=("grey",),
    labels=Labels(("body", "spot"), ((1,), (2,))),
    normalization=(Normalization("none"),),
    resize=(SIDE, SIDE),
)


@dataclass(frozen=True)
class Pictures:
    """A batch of pictures of two ellipses."""

    image: torch.Tensor
    label: torch.Tensor
    case_ids: tuple[str, ...] = ("a", "b")


def pictures(seed: int) -> Pictures:
    rng = np.random.default_rng(seed)
    label = np.zeros((2, 1, SIDE, SIDE), np.uint8)
    for one in label:
        row, column = rng.integers(24, 40, 2)
        one[0][ellipse(row, column, 18, 13)] = 1
        one[0][ellipse(row + 4, column, 7, 5)] = 2
    image = label + rng.normal(0, 0.2, label.shape)
    return Pictures(torch.from_numpy(image).float(), torch.from_numpy(label))


def recipe(*words: str, name: str = "hybridgnet"):
    optimizer = "train.optimizer={name: adamw, lr: 3e-3, weight_decay: 0.0}"
    return resolve([f"model.name={name}", optimizer, "train.precision=fp32", *words]).recipe


def stepper(*words: str) -> Stepper:
    torch.manual_seed(0)
    asked = recipe(*words)
    network = create_model("hybridgnet", in_channels=1, num_classes=3, patch_size=(SIDE, SIDE), rings=[12, 10])
    network, loss = with_loss(network, asked, PLAN)
    return Stepper(network, loss, asked.train, torch.device("cpu"))


def targets(label: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.from_numpy(contour_points(one.numpy(), RINGS, regions=False)[0]) for one in label])


def test_the_loss_is_the_error_of_all_answers_and_the_divergence() -> None:
    label = pictures(0).label
    points = targets(label)
    pooled = pool_rings(points, RINGS)
    latent = torch.full((2, 3), 2.0), torch.zeros(2, 3)
    found = Landmarks((points + 0.1, pooled - 0.2, points), latent=latent)
    divergence = 2.0  # of N(2, 1) from N(0, 1), for each entry
    squared = ContourLoss(RINGS, False, "mse", 0.5)(found, label)
    assert squared.item() == pytest.approx(0.01 + 0.04 + 0.5 * divergence, rel=1e-5)
    absolute = ContourLoss(RINGS, False, "l1", 0.0)(found, label)
    assert absolute.item() == pytest.approx(0.1 + 0.2, rel=1e-5)


def test_distances_of_an_outer_contour() -> None:
    label, rings = pictures(0).label, ((12,), (12,))
    swapped = torch.where(label > 0, 3 - label, label)  # the inner ellipse first
    points = torch.stack([torch.from_numpy(contour_points(one.numpy(), rings, regions=False)[0]) for one in swapped])
    wanted = torch.stack([torch.from_numpy(outward_distances(*one.numpy().reshape(2, 12, 2))) for one in points])
    loss = ContourLoss(rings, False, "mse", 0.0)
    assert loss(Landmarks((points[:, :12],), wanted), swapped).item() == pytest.approx(0, abs=1e-9)
    assert loss(Landmarks((points[:, :12],), wanted + 0.1), swapped).item() == pytest.approx(0.01, rel=1e-4)


def test_points_of_absent_classes_teach_nothing() -> None:
    label = pictures(0).label
    label[0][label[0] == 2] = 1
    found = torch.zeros(2, 22, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(ContourLoss(RINGS, False, "mse", 0.0)(Landmarks((found,)), label), found)
    assert slope[0, 12:].abs().max() == 0
    assert slope[0, :12].abs().max() > 0
    assert slope[1, 12:].abs().max() > 0
    empty = ContourLoss(RINGS, False, "mse", 0.0)(Landmarks((found,)), torch.zeros_like(label))
    assert empty.item() == 0


def test_the_loss_goes_down_and_a_resumed_training_is_the_uninterrupted_one() -> None:
    whole = stepper()
    losses = [whole([pictures(step)], step, 0, 3e-3)[0].item() for step in range(16)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    first, second = stepper(), stepper()
    for step in range(3):
        first([pictures(step)], step, 0, 3e-3)
    second.network.load_state_dict(first.network.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    # latent vectors are drawn by the number of the step
    assert [second([pictures(step)], step, 0, 3e-3)[0].item() for step in (3, 4)] == losses[3:5]


def test_from_pictures_to_predictions(tmp_path: Path) -> None:
    for side in ("images", "masks"):
        (tmp_path / side).mkdir()
    for number in range(6):
        batch = pictures(number)
        Image.fromarray(batch.label[0, 0].numpy()).save(tmp_path / "masks" / f"case{number}.png")
        grey = (80 * batch.image[0, 0].numpy()).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "images" / f"case{number}.png")
    words = {
        "data.root": tmp_path,
        "data.resize": [SIDE, SIDE],
        "data.regions": "true",
        "data.classes": "{spot: 2, all: [1, 2]}",
        "output": tmp_path / "runs",
        "model.name": "gcn_multistructure",
        "model.rings": "[12, 12]",
        "model.displacement": "true",
        "train.epochs": 1,
        "train.steps_per_epoch": 2,
        "train.batch_size": 2,
        "train.device": "cpu",
        "train.workers": 0,
    }
    result = train(resolve([f"{key}={value}" for key, value in words.items()]).recipe, progress=False)
    assert 0 <= result.dice <= 1
    assert result.overlay.is_file()


@pytest.mark.parametrize(
    ("words", "change", "line"),
    [
        (("train.loss.name=dice",), {}, "train.loss.name=dice: hybridgnet learns contours"),
        (("train.loss.dice_weight=2",), {}, "dice_weight is not used by the loss 'contours'"),
        (("train.parallel=fsdp",), {}, "use ddp"),
        ((), {"resize": None}, r"set data.resize=\[64, 64\]"),
        ((), {"labels": Labels(("cell",), ((1,),), instances=True)}, "data.instances=true"),
    ],
)
def test_what_does_not_go_with_contours_is_refused(words: tuple[str, ...], change: dict, line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        check_contours(recipe(*words), replace(PLAN, **change))


def test_only_networks_of_contours_have_this_loss() -> None:
    asked = recipe("train.loss.name=contours", "model.widths=[4,8]", name="unet")
    network = create_model("unet", in_channels=1, num_classes=3, patch_size=(SIDE, SIDE), widths=[4, 8])
    with pytest.raises(RecipeError, match="networks that learn contours"):
        with_loss(network, asked, PLAN)


def test_regions_of_the_model_are_those_of_the_data() -> None:
    network = create_model("hybridgnet", in_channels=1, num_classes=3, patch_size=(SIDE, SIDE), regions=True)
    with pytest.raises(RecipeError, match=r"contradicts data\.regions"):
        with_loss(network, recipe(), PLAN)
