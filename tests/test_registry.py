"""The registry: names, metadata read without importing models, refusals."""

import re
import subprocess
import sys

import pytest
import torch

import unetkit
from unetkit.errors import ModelError, ShapeError
from unetkit.registry import (
    FAMILIES,
    ModelInfo,
    catalog,
    check_size,
    check_task,
    create_model,
    list_models,
    model_info,
    register,
)
from unetkit.types import TaskShape


def test_catalog_is_read_from_source_and_equals_what_is_registered() -> None:
    code = (
        "from unetkit.registry import _catalog, _live; import sys; from dataclasses import replace\n"
        "static = dict(_catalog()); assert 'torch' not in sys.modules\n"
        "import unetkit.models\n"
        "assert set(static) == set(_live), set(static) ^ set(_live)\n"
        "for name, info in static.items():\n"
        "    live = _live[name]\n"
        "    assert info == replace(live, build=None), name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_variant_is_what_it_differs_in() -> None:
    small, large = model_info("stunet_s"), model_info("stunet_l")
    same = ("family", "paper", "dims", "multiple_by", "source", "params_at", "options", "notes", "new", "module")
    assert [getattr(large, key) for key in same] == [getattr(small, key) for key in same]
    assert (large.name, large.title, large.params) == ("stunet_l", "STU-Net-L", {3: 440302605})
    # of another file: what is new is said there
    assert model_info("transnorm").new != model_info("transunet").new
    assert set(model_info("transnorm").options) - set(model_info("transunet").options) == {"as_published"}
    with torch.device("meta"):
        model = create_model("mednext_b", patch_size=(32, 32), kernel=5)
        with pytest.raises(ModelError, match=r"mednext_b has no option 'kernels' \(did you mean 'kernel'"):
            create_model("mednext_b", patch_size=(32, 32), kernels=5)
    assert {m.kernel_size for m in model.modules() if getattr(m, "groups", 1) > 1} == {(5, 5)}


@pytest.mark.parametrize("name", list_models())
def test_metadata_is_whole(name: str) -> None:
    info = model_info(name)
    assert info.family in FAMILIES
    assert 2014 < info.year < 2030
    assert set(info.dims) <= {2, 3}
    assert set(info.params) == set(info.params_at)
    assert set(info.gflops) | set(info.activation_mb) <= set(info.params_at), "known at the size of params_at"
    assert info.new
    assert len(info.new) < 250
    assert "\n" not in info.new
    assert not info.new.endswith("."), "one sentence, without its full stop"
    if not any(info.source):
        assert "no public code" in info.notes, "why there is no reference"
        return
    assert all(info.source), "repository, commit and licence of the reference"


def test_filters() -> None:
    assert "unet" in list_models(family="cnn", dims=3)
    assert "transunet" not in list_models(dims=3)
    assert list_models("swin_u*") == ["swin_umamba", "swin_umamba_d", "swin_unet", "swin_unetr"]
    small = list_models(params=(None, 30e6))
    assert small
    assert all(min(catalog()[n].params.values()) <= 30e6 for n in small)
    assert "swin_unetr" in small
    assert "swin_unetr" not in list_models(params=(None, 30e6), dims=3), "62 M parameters in 3D"
    assert {"unet", "unetpp"} & set(list_models(year=(2015, 2018))) == {"unet", "unetpp"}
    assert "unet" not in list_models(year=(2016, None))
    assert set(list_models(gflops=(None, 100))) & set(list_models(gflops=(100.1, None))) <= {
        n for n, i in catalog().items() if len(i.gflops) > 1
    }
    assert "unet" in list_models(licence="gpl*")
    with pytest.raises(ModelError, match="nothing lies between 9 and 1; write the smaller bound first"):
        list_models(gflops=(9, 1))
    with pytest.raises(ModelError, match="did you mean 'transformer'"):
        list_models(family="transformers")


def test_refusals_name_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"no model 'swin_unnet' \(did you mean 'swin_unet'\?\)"):
        unetkit.create_model("swin_unnet")
    with pytest.raises(ModelError, match=r"has no option 'witdhs' .did you mean 'widths'"):
        unetkit.create_model("unet", witdhs=(8, 16))
    with pytest.raises(ModelError, match="transunet is 2D only"):
        unetkit.create_model("transunet", patch_size=(64, 64, 64))
    with pytest.raises(ShapeError, match="give 2 or 3 positive whole numbers"):
        unetkit.create_model("unet", patch_size=(64,))


def test_size_rules() -> None:
    info = ModelInfo(title="t", family="cnn", year=2020, paper="-", dims=(2,), multiple=16, min_size=32, square=True)
    assert info.legal_size((17, 50)) == (64, 64)
    with pytest.raises(ShapeError, match=r"multiples of 16, at least 32, all equal; the next legal size is \(64, 64\)"):
        check_size(info, (17, 50), "x")


@pytest.mark.parametrize(
    ("name", "options", "size", "legal"),
    [
        ("unet", {"widths": [4] * 6}, (20, 40), (32, 40)),
        ("unet", {"encoder": "resnet18"}, (20, 40), (32, 64)),
        ("unetpp", {}, (20, 40), (32, 48)),
        ("unetpp", {"widths": [4] * 6}, (20, 40), (32, 64)),
        ("unetpp", {"widths": [4] * 6, "depth": 2}, (21, 40), (24, 40)),
        ("unetpp", {"variant": "nnunet"}, (20, 40), (32, 64)),
        ("resunet", {"variant": "monai"}, (20, 40), (32, 48)),
        ("swin_unet", {"depths": [2, 2], "heads": [3, 6]}, (20, 41), (24, 48)),
        ("plain_unet", {"strides": [1, 2, (1, 3)]}, (20, 40), (20, 42)),
        ("plain_unet", {"strides": [1, 2, 2]}, (21, 40, 40), (24, 40, 40)),
    ],
)
def test_sizes_follow_the_options(name, options, size, legal) -> None:
    assert model_info(name).fitted(options).legal_size(size) == legal
    with torch.device("meta"):
        model = unetkit.create_model(name, patch_size=legal, **options)
        assert model(torch.zeros(2, 1, *legal)).shape == (2, 2, *legal)
    if legal != size:
        with pytest.raises(ShapeError, match=f"the next legal size is {re.escape(str(legal))}"):
            unetkit.create_model(name, patch_size=size, **options)


def test_missing_package_is_named() -> None:
    info = ModelInfo(title="t", family="cnn", year=2020, paper="-", dims=(2,), needs=("no_such_package",), name="m")
    with pytest.raises(ModelError, match="pip install no_such_package"):
        check_task(info, TaskShape(1, 2, (8, 8)), {})


def test_a_users_model_is_one_decorator_away() -> None:
    from torch import nn

    @register(ModelInfo(title="One convolution", family="cnn", year=2026, paper="-", dims=(2, 3)))
    def one_convolution(task: TaskShape, *, kernel: int = 1) -> nn.Module:
        layer = nn.Conv2d if task.dims == 2 else nn.Conv3d
        return layer(task.in_channels, task.num_classes, kernel)

    import torch

    model = unetkit.create_model("one_convolution", in_channels=2, num_classes=3, patch_size=(4, 4, 4))
    assert model(torch.zeros(1, 2, 4, 4, 4)).shape == (1, 3, 4, 4, 4)
    with pytest.raises(ShapeError, match=r"expected \[B, 2, D, H, W\]"):
        model(torch.zeros(1, 1, 4, 4, 4))
