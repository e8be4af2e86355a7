"""Weights of SAM-UNet and of Segment Anything under other names, their tables fitted to the built patch size."""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from unetkit.models._pretrained import Renames, rename

VIT = "encoder.vit."
STEM = VIT + "patch_embed.proj.weight"


def _from_the_end(match: re.Match[str]) -> str:
    return f"encoder.outward.{2 - int(match[1])}."  # the reference counts them from the decoder's side


def _every_other(match: re.Match[str]) -> str:
    return f"decoder.weigh.{2 * int(match[1])}."


NAMES: Renames = (
    (r"^module\.", ""),
    (r"\.sam_(img_encoder|prompt_encoder|mask_decoder)\.", "."),
    (r"^image_encoder\.", VIT),
    (r"^(patch_embed\.|pos_embed|blocks\.|neck\.)", VIT + r"\1"),
    (r"^(encoder\.vit\..*)\.lin(\d)\.", r"\1.fc\2."),
    (r"^prompt_encoder\.", "prompts."),
    (r"pe_layer\.positional_encoding_gaussian_matrix$", "frequencies"),
    (r"^prompts\.point_embeddings\.", "prompts.kinds."),
    (r"^prompts\.not_a_point_embed\.", "prompts.filler."),
    (r"^prompts\.mask_downscaling\.", "prompts.mask."),
    (r"^prompts\.no_mask_embed\.", "prompts.no_mask."),
    (r"^mask_decoder\.transformer\.layers\.", "decoder.transformer.blocks."),
    (r"^mask_decoder\.transformer\.final_attn_token_to_image\.", "decoder.transformer.last."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "decoder.transformer.norm."),
    (r"^mask_decoder\.output_upscaling\.", "decoder.enlarge."),
    (r"^mask_decoder\.embedding_maskfeature\.", "decoder.refine."),
    (r"^mask_decoder\.med_token\.", "decoder.tokens."),
    (r"^mask_decoder\.hf_mlp\.layers\.(\d)\.", _every_other),
    *(
        (rf"^(decoder\.transformer\..*)\b{theirs}\.", rf"\g<1>{ours}.")
        for theirs, ours in (
            ("self_attn", "own"),
            ("cross_attn_token_to_image", "to_map"),
            ("cross_attn_image_to_token", "to_tokens"),
            ("q_proj", "query"),
            ("k_proj", "key"),
            ("v_proj", "value"),
            ("out_proj", "out"),
            ("lin1", "0"),
            ("lin2", "2"),
            *((f"norm{i + 1}", f"norms.{i}") for i in range(4)),
        )
    ),
    (r"^embedding_encoder\.", "encoder.deepest."),
    (r"^adapters_in\.(\d)\.reshaper\.", r"encoder.inward.\1."),
    (r"^adapters_bridge\.(\d)\.", _from_the_end),
    (r"^resnet\.stage0\.0\.", "encoder.resnet.network.conv1."),
    (r"^resnet\.stage0\.1\.", "encoder.resnet.network.bn1."),
    (r"^resnet\.stage(\d)\.", r"encoder.resnet.network.layer\1."),
)
"""From the names of the reference, of Segment Anything and of timm's ViT."""


def sam_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` under our names, with positions, relative tables and stem in the shapes of `own`."""
    from timm.models import adapt_input_conv  # slow to import, and only needed here

    fitted = rename(dict(state), NAMES)
    for key, tensor in fitted.items():
        if key not in own or own[key].shape == tensor.shape:
            continue
        if key == STEM:
            fitted[key] = adapt_input_conv(own[key].shape[1], tensor)
        elif key.endswith("pos_embed"):  # [1, h, w, C]
            image = tensor.movedim(-1, 1).float()
            resized = F.interpolate(image, tuple(own[key].shape[1:3]), mode="bilinear", align_corners=False)
            fitted[key] = resized.movedim(1, -1)
        elif "rel_pos_" in key:  # [2 n - 1, C]
            fitted[key] = F.interpolate(tensor.t()[None].float(), len(own[key]), mode="linear")[0].t()
    return fitted
