"""RWKV-UNet's released weights: names of the whole network, or of its encoder alone, to ours."""

from unetkit.models._pretrained import Renames

NAMES: Renames = [
    (r"^(module|encoder)\.", ""),
    (r"^stage(\d)\.", r"encoder.stages.\1."),
    (r"^decoder(\d)\.", lambda m: f"decoder.ups.{4 - int(m[1])}."),
    (r"^(decoder\.ups\.\d)\.conv\.", r"\1.0."),
    (r"^(decoder\.ups\.\d)\.conv_local\.", r"\1.1."),
    (r"^(decoder\.ups\.\d)\.proj\.", r"\1.2."),
    (r"^(decoder\.ups\.\d\.\d)\.conv\.", r"\1.0."),
    (r"^(decoder\.ups\.\d\.\d)\.norm\.", r"\1.1."),
    (r"^final_conv\.", "heads.convs.0."),
    (r"^ccm\.(final_)?projections\.(\d)\.", lambda m: f"ccm.{'after' if m[1] else 'before'}.{2 - int(m[2])}."),
    (r"^ccm\.ln1\.", "ccm.norm."),
    (r"^ccm\.channel\.", "ccm.mix."),
    (r"\.norm\.norm\.", ".norm."),
    (r"\.(conv|conv_local)\.conv\.", lambda m: f".{'widen' if m[1] == 'conv' else 'local'}.0."),
    (r"\.(conv|conv_local)\.norm\.", lambda m: f".{'widen' if m[1] == 'conv' else 'local'}.1."),
    (r"\.proj\.conv\.", ".project."),
    (r"\.se\.conv_reduce\.", ".gate.scale.0."),
    (r"\.se\.conv_expand\.", ".gate.scale.2."),
    (r"\.att\.", ".tokens.mix."),
    (r"\.ln1\.", ".tokens.norm."),
    (r"\.mix\.key_norm\.", ".mix.norm."),
    (r"\.mix\.receptance\.", ".mix.gate."),
    (r"\.mix\.output\.", ".mix.out."),
    (r"\.spatial_(decay|first)$", r".\1"),
    (r"\.spatial_mix_k$", ".mix_key"),
    (r"\.spatial_mix_v$", ".mix_value"),
    (r"\.spatial_mix_r$", ".mix_gate"),
]
