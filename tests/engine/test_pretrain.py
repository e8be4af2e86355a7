"""Pretraining: what its losses are by hand, images without labels, and what a training takes over."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unetkit.checkpoint import load_checkpoint, read_state
from unetkit.data.loader import Batch, TrainingLoader
from unetkit.engine.pretrain.barlow import RedundancyLoss, TwoViews, encoder_channels
from unetkit.engine.pretrain.masked import MaskedError, MaskedImages, draw_mask
from unetkit.engine.train import PretrainResult, train
from unetkit.errors import CheckpointError, RecipeError
from unetkit.infer.predictor import Predictor
from unetkit.recipe import resolve
from unetkit.registry import create_model

CPU = torch.device("cpu")
WORDS = [
    "model.name=plain_unet",
    "data.patch_size=[16,16]",
    "plan.widths=[4,8]",
    "plan.strides=[[1,1],[2,2]]",
    "plan.kernels=[[3,3],[3,3]]",
    "data.normalization=zscore",
    "data.split.val_fraction=0.25",
    "train.epochs=2",
    "train.steps_per_epoch=2",
    "train.batch_size=2",
    "train.workers=0",
    "train.device=cpu",
    "train.precision=fp32",
]
PRETRAIN = ["task=pretrain", "train.pretrain.mask_patch=4"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of grey pictures and nothing else."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)).save(folder / f"p{number}.png")
    return folder


def run(folder: Path, *words: str) -> PretrainResult:
    """Train in a folder beside the data."""
    recipe = resolve([*WORDS, f"data.root={folder}", f"output={folder.parent / 'runs'}", *words]).recipe
    return train(recipe, progress=False)


def stopped_at_third(batches: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
    """The loader's method, with Ctrl-C instead of the third batch."""

    def made(loader: TrainingLoader, start_step: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(batches(loader, start_step)):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    return made


@pytest.mark.parametrize(("size", "part"), [((16, 12), (4, 4)), ((10, 8, 6), (4, 4, 3))])
def test_mask_hides_the_same_share_of_whole_parts(size: tuple[int, ...], part: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = draw_mask(3, size, part, 0.75, CPU)
    assert mask.shape == (3, 1, *size)
    corners = mask[(slice(None), 0, *(slice(None, None, p) for p in part))].flatten(1)
    assert (corners.sum(1) == round(0.75 * corners.shape[1])).all()
    for axis, p in enumerate(part, start=2):  # all voxels of a part are alike
        first = torch.arange(mask.shape[axis]) // p * p
        assert torch.equal(mask, mask.index_select(axis, first))
    assert not torch.equal(mask[0], mask[1])


def test_only_hidden_voxels_within_the_image_count() -> None:
    image = torch.zeros(1, 2, 2, 2)
    restored = torch.tensor([[[[1.0, 2.0], [3.0, 100.0]], [[1.0, 4.0], [5.0, 100.0]]]], requires_grad=True)
    mask = torch.tensor([[[[False, True], [True, True]]]])
    label = torch.tensor([[[[1, 1], [1, 255]]]], dtype=torch.uint8)
    loss = MaskedError()((restored, image, mask), label)
    # (2^2 + 4^2) / 2 and (3^2 + 5^2) / 2, of which the mean
    assert loss.item() == pytest.approx((10 + 17) / 2)
    loss.backward()
    assert restored.grad is not None
    assert torch.equal(restored.grad[:, :, 1, 1], torch.zeros(1, 2))
    assert torch.equal(restored.grad[:, :, 0, 0], torch.zeros(1, 2))


def test_network_does_not_see_what_is_hidden() -> None:
    network = create_model("plain_unet", in_channels=1, num_classes=1, patch_size=(16, 16)).eval()
    module, image = MaskedImages(network, (4, 4), 0.5), torch.randn(2, 1, 16, 16)
    torch.manual_seed(1)
    restored, same, mask = module(image)
    torch.manual_seed(1)
    again, _, _ = module(image + 7.0 * mask)
    assert torch.equal(same, image)
    assert torch.equal(restored, again)


def test_barlow_loss_by_hand() -> None:
    # columns of +-1 that are orthogonal: the two views correlate as the identity
    features = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    label = torch.zeros(8, 1, 1, 1, dtype=torch.uint8)
    loss = RedundancyLoss(0.005)
    assert loss((features, features), label).item() == pytest.approx(0, abs=1e-8)
    assert loss((3 * features + 5, features), label).item() == pytest.approx(0, abs=1e-8)
    # opposite views: C = -identity, (1 + 1)^2 each
    assert loss((features, -features), label).item() == pytest.approx(8, abs=1e-3)
    # one feature said twice: C is 1 everywhere
    twice = features[:, :1].repeat(1, 2)
    assert loss((twice, twice), label).item() == pytest.approx(0.005 * 2, abs=1e-5)


def test_barlow_trains_the_encoder_alone() -> None:
    network = create_model("barlow_swin", in_channels=1, num_classes=2, patch_size=(32, 32), embed_dim=16)
    module = TwoViews(network, encoder_channels(network, "barlow_swin"), [8, 8, 8])
    first, second = module(torch.randn(6, 1, 32, 32))
    assert first.shape == second.shape == (3, 8)
    RedundancyLoss(0.005)((first, second), torch.zeros(0)).backward()
    touched = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert touched == {"encoder"}


def test_network_without_encoder_is_refused_in_one_line() -> None:
    network = create_model("u2net", in_channels=1, num_classes=2, patch_size=(32, 32))
    with pytest.raises(RecipeError, match=r"u2net has no encoder .* use method=mae"):
        encoder_channels(network, "u2net")


def test_images_alone_pretrain_and_a_training_takes_the_weights(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(pictures, *PRETRAIN, "name=mae")
    assert before.held_out
    assert np.isfinite([before.loss, before.baseline]).all()
    assert before.report.is_file()
    assert before.picture.is_file()
    with pytest.raises(CheckpointError, match=r"knows no classes; train from it: train\.init="):
        Predictor.from_checkpoint(before.run)
    masks = pictures / "masks"
    (pictures / "images").mkdir()
    masks.mkdir()
    for path in sorted(pictures.glob("*.png")):
        path.rename(pictures / "images" / path.name)
        Image.fromarray(np.eye(24, dtype=np.uint8)).save(masks / path.name)
    recipe = resolve([*WORDS, f"data.root={pictures}", f"output={pictures.parent / 'runs'}", "name=tuned"]).recipe
    started = recipe.train.model_copy(update={"init": str(before.run), "epochs": 1, "steps_per_epoch": 1})
    tuned = train(recipe.model_copy(update={"train": started}))
    told = capsys.readouterr().err
    assert "tensors are taken from" in told
    assert "2 start anew: heads.convs.0.bias, heads.convs.0.weight" in told
    assert tuned.dice is not None


def test_pretraining_resumes_bit_for_bit(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(pictures, *PRETRAIN, "name=whole")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoader, "batches", stopped_at_third(TrainingLoader.batches))
        with pytest.raises(KeyboardInterrupt):
            run(pictures, *PRETRAIN, "name=cut")
    folder = whole.run.parent / "cut"
    assert read_state(folder / "last.safetensors")["progress"]["step"] == 2
    again = train(resume=folder, progress=False)
    assert again.loss == whole.loss
    weights = [load_checkpoint(one.run).weights for one in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.pretrain.mask_patch=4"], "read by task=pretrain alone"),
        (["task=pretrain", "train.pretrain.mask_patch=16"], "covers the whole patch"),
        (["task=pretrain", "train.pretrain.off_diagonal=0.1"], "not used by method=mae"),
        (["task=pretrain", "train.patience=3"], "no use for train.patience"),
        (["task=pretrain", "train.pretrain.mask_patch=[4,4,4]"], "the patch .16, 16. has 2 axes"),
    ],
)
def test_settings_that_cannot_be_are_refused(pictures: Path, words: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(pictures, *words)
