"""Which normalisation each channel gets."""

from __future__ import annotations

from collections.abc import Sequence

from unetkit.errors import RecipeError
from unetkit.plan.fingerprint import Fingerprint, Intensity
from unetkit.plan.plan import Normalization
from unetkit.recipe.schema import DataSection

MASKED_BELOW = 0.75
"""With less of the volume left after cutting the zero border, only nonzero voxels count for the z-score."""
# nnU-Net's names of channels that ask for a scheme of their own; any other is z-scored.
_BY_NAME = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "minmax", "rgb_to_0_1": "rgb"}
_PIXELS = ("uint8", "uint16")
_SQUASHED = 0.01


def choose_normalization(
    fingerprint: Fingerprint, section: DataSection, cropped: bool, planner: str = "unetkit"
) -> tuple[tuple[Normalization, ...], str]:
    """Return the rule of each channel and the reason.

    `cropped`: the zero border is cut away, so that a small rest tells of masked images. nnU-Net's planner knows
    colour pictures by their channels' names alone.
    Raises RecipeError for a list of another length than the channels, and for a range that no channel uses, or that
    leaves nearly nothing of the images.
    """
    asked = _asked(section, fingerprint.channels)
    chosen = [
        _scheme(name, fingerprint, section, cropped, planner) if scheme == "auto" else (scheme, "as the recipe says")
        for name, scheme in zip(fingerprint.channels, asked, strict=True)
    ]
    rules = tuple(
        _rule(scheme, section.clip, intensity)
        for (scheme, _), intensity in zip(chosen, fingerprint.intensities, strict=True)
    )
    if section.clip is not None and not any(rule.low is not None for rule in rules):
        raise RecipeError(f"data.clip {list(section.clip)} is used by no channel; set data.normalization=clip_minmax")
    for name, rule, seen in zip(fingerprint.channels, rules, fingerprint.intensities, strict=True):
        if section.clip is not None and rule.low is not None:
            _require_contrast(name, section.clip, seen)
    reasons: dict[str, list[str]] = {}
    for name, rule, (_, why) in zip(fingerprint.channels, rules, chosen, strict=True):
        reasons.setdefault(f"{_says(rule)}, {why}", []).append(name)
    return rules, "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def _asked(section: DataSection, channels: Sequence[str]) -> Sequence[str]:
    """Return what the recipe asks of each channel."""
    asked = section.normalization
    if isinstance(asked, str):
        return [asked] * len(channels)
    if len(asked) != len(channels):
        raise RecipeError(
            f"data.normalization=[{', '.join(asked)}] for {len(channels)} channel(s) ({', '.join(channels)}); give as "
            "many, in their order, or one for all"
        )
    return asked


def _scheme(name: str, fingerprint: Fingerprint, section: DataSection, cropped: bool, planner: str) -> tuple[str, str]:
    """Return scheme and reason of one channel of which the recipe says nothing."""
    if name.lower() in _BY_NAME:
        return _BY_NAME[name.lower()], "by the channel's name"
    if section.clip is not None:
        return "clip_minmax", "as the recipe gives a range"
    pixels = fingerprint.dims == 2 and all(t in _PIXELS for t in fingerprint.dtypes)
    if planner == "unetkit" and pixels and len(fingerprint.channels) == 3:
        return "rgb", f"as these are colour pictures of {' and '.join(fingerprint.dtypes)}"
    # Skull-stripped and masked images: mean and deviation of mostly zeros would say nothing.
    if cropped and fingerprint.crop_ratio < MASKED_BELOW:
        return "zscore_mask", f"as only {fingerprint.crop_ratio:.0%} of a volume lies within the nonzero box"
    return "zscore", "as nothing is known of its units"


def _require_contrast(name: str, clip: tuple[float, float], seen: Intensity) -> None:
    """Refuse a range meant for another scale (HU for values of 0 to 1, say): training on it would learn from noise."""
    kept = min(seen.high, clip[1]) - max(seen.low, clip[0])
    if seen.high > seen.low and kept < _SQUASHED * (clip[1] - clip[0]):
        raise RecipeError(
            f"data.clip [{clip[0]:g}, {clip[1]:g}]: the labelled voxels of channel '{name}' have values of "
            f"{seen.low:.4g} to {seen.high:.4g}, which hardly differ within that range; give the range of the files' "
            "own scale"
        )


def _rule(scheme: str, clip: tuple[float, float] | None, seen: Intensity) -> Normalization:
    # Percentiles 0.5 and 99.5 of the foreground, unless the recipe knows better.
    low, high = clip or (seen.low, seen.high)
    if scheme == "ct":
        return Normalization(scheme, low, high, seen.mean, seen.std)
    return Normalization(scheme, low, high) if scheme == "clip_minmax" else Normalization(scheme)


def _says(rule: Normalization) -> str:
    text = rule.scheme
    if rule.low is not None:
        text += f" of {rule.low:.4g} to {rule.high:.4g}"
    if rule.mean is not None:
        text += f" with foreground mean {rule.mean:.4g} and deviation {rule.std:.4g}"
    return text
