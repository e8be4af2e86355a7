"""SAM-UNet: prompts change the answer, the ViT stays frozen, weights of Segment Anything fit smaller images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unetkit.blocks.prompts import PromptEncoder
from unetkit.errors import ModelError
from unetkit.models._sam_weights import sam_weights
from unetkit.registry import create_model


def prompts() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(8, (64, 32), (4, 2))


def test_each_prompt_is_a_token() -> None:
    encoder = prompts()
    boxes, points, labels = torch.zeros(3, 4), torch.zeros(3, 5, 2), torch.ones(3, 5)
    assert encoder(boxes, None, None).shape == (3, 2, 8)
    assert encoder(boxes, points, labels).shape == (3, 7, 8)
    # without a box one more token says so
    assert encoder(None, points, labels).shape == (3, 6, 8)
    assert encoder.dense(torch.zeros(3, 1, 16, 8)).shape == (3, 8, 4, 2)


def test_labels_tell_foreground_from_background() -> None:
    encoder, place = prompts(), torch.full((1, 1, 2), 7.0)
    shown, hidden = (encoder(None, place, torch.full((1, 1), label))[0, 0] for label in (1.0, 0.0))
    torch.testing.assert_close(shown - hidden, encoder.kinds[1].weight[0] - encoder.kinds[0].weight[0])


def test_places_are_those_of_points_in_the_middle_of_patches() -> None:
    encoder = prompts()
    middle = torch.tensor([[[1.5 * 16 - 0.5, 2.5 * 16 - 0.5]]])  # x, y of row 2 and column 1
    token = encoder(None, middle, torch.ones(1, 1))[0, 0] - encoder.kinds[1].weight[0]
    torch.testing.assert_close(encoder.places()[0, :, 2, 1], token)


def test_weights_of_segment_anything_fit_other_sizes_and_channels() -> None:
    theirs = {
        "image_encoder.pos_embed": torch.ones(1, 64, 64, 8),
        "image_encoder.blocks.2.attn.rel_pos_h": torch.ones(127, 4),
        "image_encoder.patch_embed.proj.weight": torch.ones(8, 3, 16, 16),
        "image_encoder.blocks.0.mlp.lin1.weight": torch.ones(32, 8),
        "mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight": torch.ones(4, 8),
    }
    own = {
        "encoder.vit.pos_embed": torch.zeros(1, 4, 2, 8),
        "encoder.vit.blocks.2.attn.rel_pos_h": torch.zeros(7, 4),
        "encoder.vit.patch_embed.proj.weight": torch.zeros(8, 1, 16, 16),
        "encoder.vit.blocks.0.mlp.fc1.weight": torch.zeros(32, 8),
        "decoder.transformer.blocks.1.to_tokens.query.weight": torch.zeros(4, 8),
    }
    fitted = sam_weights(theirs, own)
    assert {key: value.shape for key, value in fitted.items()} == {key: value.shape for key, value in own.items()}
    assert fitted["encoder.vit.patch_embed.proj.weight"].unique() == 3  # the three colours add up


def small(**options: Any) -> torch.nn.Module:
    """Return a SAM-UNet with a narrow ViT for 32 x 32 images of 3 channels."""
    torch.manual_seed(0)
    return create_model("sam_unet", in_channels=3, patch_size=(32, 32), resnet="resnet34", hidden=64, **options)


def test_prompts_change_the_answer_and_all_but_the_vit_learns() -> None:
    model, image = small().train(), torch.randn(2, 3, 32, 32)
    box = torch.tensor([[0.0, 0.0, 31.0, 31.0]]).expand(2, 4)
    whole = model(image, boxes=box)
    assert whole.shape == (2, 2, 32, 32)
    whole.square().mean().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    unused = ("encoder.vit.", "prompts.kinds.0", "prompts.kinds.1", "prompts.filler", "prompts.mask.")
    assert {name for name in silent if not name.startswith(unused)} == set()
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(model(image), model(image, boxes=box))  # no prompt: the whole image
        assert not torch.allclose(model(image), model(image, boxes=box / 2))
        assert not torch.allclose(model(image), model(image, points=box[:, None, :2], labels=torch.ones(2, 1)))
        assert not torch.allclose(model(image), model(image, masks=torch.ones(2, 1, 8, 8)))


def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    file = tmp_path / "sam.safetensors"
    save_file({"image_encoder.sam_img_encoder.neck.1.bias": torch.full((256,), 5.0)}, file)
    model = small(weights=str(file))
    assert (model.encoder.vit.neck[1].bias == 5).all()
    assert not any(p.requires_grad for p in model.encoder.vit.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vit": "samvit_bas_patch16"}, "did you mean"),
        ({"resnet": "resnet51"}, "resnet50"),
        ({"hidden": 100}, "hidden=100: give a multiple of 64"),
        ({"weights": "a.safetensors", "pretrained": True}, "contradict"),
        ({"weights": "a.pth"}, "give a .safetensors or .npz file"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        create_model("sam_unet", in_channels=3, patch_size=(32, 32), **options)
    assert "\n" not in str(caught.value)


def test_points_need_labels() -> None:
    with torch.device("meta"):
        model = create_model("sam_unet", in_channels=3, patch_size=(32, 32))
        with pytest.raises(ModelError, match="points and labels belong together"):
            model(torch.zeros(1, 3, 32, 32), points=torch.zeros(1, 1, 2))
