"""The page of what a data set measures, from measured files to HTML."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from unetkit.data.datasets import open_dataset
from unetkit.plan import measure
from unetkit.recipe.schema import DataSection
from unetkit.report.fingerprint_page import render_fingerprint
from unetkit.report.fingerprint_sections import data_section


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Seven small volumes of two channels, one without foreground, one of another size."""
    root, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for n in range(7):
        size = (40, 12, 10) if n == 6 else (12, 12, 10)
        image = rng.normal(100, 20, (*size, 2)).astype(np.float32)
        image[0] = 0
        label = np.zeros(size, np.uint8)
        label[3:6, 3:6, 3:6], label[8, 8, 8] = n > 0, 2 * (n > 0)
        for folder, array in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), root / folder / f"case_{n}.nii.gz")
    section = DataSection(root=str(root), classes={"organ": 1, "<b>lesion": 2}, channels=["T1", "T2"])
    dataset = open_dataset(section)
    found = measure(dataset, [case.id for case in dataset.cases], home=root / "cache")
    return json.loads(json.dumps(found.to_json()))


def test_page_is_whole_and_escaped(tree):
    page = render_fingerprint(tree, "a & b", "1.0", {"3d_fullres": {"spacing": "1 mm < 2 mm"}})
    assert "<h1>a &amp; b</h1>" in page
    assert "&lt;b&gt;lesion" in page
    assert "<b>lesion" not in page
    assert all(f'id="{key}"' in page for key in ("sizes", "intensities", "classes", "odd", "cases", "plan_3d_fullres"))
    assert "1 mm &lt; 2 mm" in page
    # nothing is fetched from anywhere
    assert not re.search(r'(src|href)="(?!data:|#)', re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    for word in ("case_6", "no foreground in 1 of 7 cases: case_0", "40 x 12 x 10"):
        assert word in page
    # sizes, after the crop, spacing, extent; bars and means of two channels; sizes and share of the classes
    assert page.count("<svg") == 4 + 4 + 2


def test_run_report_has_the_most_important(tree):
    section = data_section(tree)
    assert section.count("<svg") == 3
    assert "7 training cases" in section


def test_pictures_have_no_millimetres(tree):
    flat = {**tree, "dims": 2, "placed": False}
    for name in ("shapes", "cropped", "spacings"):
        flat[name] = [size[:2] for size in tree[name]]
    page = render_fingerprint(flat, "pictures", "1.0", {})
    assert "pixels" in page
    assert "mL" not in page
    assert "Median spacing" not in page
