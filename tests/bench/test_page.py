"""The page of a benchmark: complete in itself, true to the verdicts, and its drawings in the right places."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from unetkit.bench.analysis import Scores, judge, overall
from unetkit.bench.drawings import Point, pareto_plot, rank_diagram
from unetkit.bench.page import BenchData, Part, render_bench

FAMILIES = {"good": "cnn", "dear": "transformer", "bad": "ssm"}
COSTS = {
    name: {
        "params_m": p,
        "gmacs": p,
        "gflops": 2 * p,
        "per_second": 100 / p,
        "to_reference": p / 100,
        "ms": 10 * p,
        "step_mb": None,
    }
    for name, p in (("good", 1.0), ("dear", 9.0), ("bad", 4.0))
}
CASES = tuple(f"c{i}" for i in range(25))


def verdict(target, seed=0, runs=2):
    rng = np.random.default_rng(seed)
    values = np.array([0.8, 0.8, 0.6])[:, None, None] + 0.02 * rng.standard_normal((3, runs, 25))
    return judge(Scores(target, "iou", tuple(FAMILIES), CASES, CASES, values), COSTS)


def rendered(runs=2, foreign=False):
    verdicts = {t: verdict(t, n, runs) for n, t in enumerate("ab")}
    parts = [Part(f"<{t}>", v, COSTS, {"dice": dict.fromkeys(FAMILIES, 0.9)}) for t, v in verdicts.items()]
    together = overall([part.verdict for part in parts])
    parts += [Part("a → c", verdict("c", 2, runs), COSTS, foreign=True)] if foreign else []
    return render_bench(
        BenchData(
            "tiny",
            parts,
            together,
            {"Why": "so"},
            {"a/bad/seed_1": "no <room>"},
            2,
            FAMILIES,
            {"device": "cpu"},
            {"unetkit": "1"},
        )
    )


@pytest.fixture(scope="module")
def page():
    return rendered()


def test_a_single_training_is_said_to_leave_its_chance_out(page):
    assert "trained only once" in rendered(runs=1)
    assert "trained only once" not in page


def test_intervals_stay_within_what_scores_can_be():
    values = np.full((2, 2, 25), 0.5)
    values[0, 0], values[0, 1] = 0.02, 0.98
    wide = judge(Scores("a", "iou", ("good", "dear"), CASES, CASES, values), COSTS)
    assert wide.draws.interval(0)[1] > 1
    page = render_bench(BenchData("t", [Part("a", wide, COSTS)], None, {}, {}, 0, FAMILIES, {}, {}))
    assert "0.000 to 1.000" in page


def test_data_that_networks_were_not_trained_on_are_told_from_the_others(page):
    assert "Every data set counts alike. " in page
    assert "counts alike, but for those whose networks were trained on others." in rendered(foreign=True)


def test_the_page_asks_no_server_for_anything_and_escapes_names(page):
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert "no &lt;room&gt;" in page


def test_the_page_says_who_leads_and_who_is_level_with_it(page):
    assert "1 model not separable from it" in page
    assert "Not finished: 2 jobs" in page
    assert page.count("not separable</td>") >= 2


def test_u_scores_of_both_kinds_of_anchors_stand_beside_each_other(page):
    assert page.count("U-Score <small>cohort</small>") == 2
    assert "the band, and ranks, that other quantiles (0.05 to 0.95, 0.1 to 0.9, 0.2 to 0.8), shares" in page
    frozen = judge(verdict("a").scores, COSTS, "ubench:busi")
    said = render_bench(BenchData("x", [Part("a", frozen, COSTS)], None, {}, {}, 0, FAMILIES, {}, {}))
    assert "anchors <b>ubench:busi, speed by U-Net</b>, and beside it <b>cohort</b>; below each the band, and" in said
    assert "0.2 to 0.8; of the cohort alone), shares of accuracy" in said
    heads = re.findall(r"<th[^>]*>U-Score <small>(.*?)</small></th>", said)
    assert heads == ["ubench:busi", "cohort"]
    for rating in frozen.ratings:
        for parts in rating.scores.values():
            assert f'<td data-value="{parts.score}"><b>{parts.score:.1f}</b><br>' in said


def test_what_nothing_beats_is_named_in_the_plot():
    points = [
        Point("good", "cnn", 0.8, 0.7, 0.9, 1.0),
        Point("beaten", "cnn", 0.7, 0.6, 0.8, 2.0),
        Point("best", "cnn", 0.9, 0.8, 0.95, 100.0),
    ]
    drawn = pareto_plot(points, "cost", "s", "IoU")
    assert re.findall(r'class="dot front" tabindex=0 data-name="(\w+)"', drawn) == ["good", "best"]
    found = re.findall(r'data-name="(\w+)".*?<circle cx="([\d.]+)" cy="([\d.]+)"', drawn, re.DOTALL)
    places = {name: (float(x), float(y)) for name, x, y in found}
    assert places["good"][0] < places["beaten"][0] < places["best"][0]
    assert places["best"][1] < places["good"][1] < places["beaten"][1]
    # a decade is as wide everywhere: 1 to 100 is twice as far as 1 to 10
    assert places["best"][0] - places["good"][0] == pytest.approx(
        (places["beaten"][0] - places["good"][0]) * 2 / np.log10(2), abs=0.5
    )


def test_bars_span_the_models_of_a_clique():
    drawn = rank_diagram(["a", "b", "c", "d"], [1.2, 3.9, 1.5, 3.4], [(0, 2)])
    (bar,) = re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="\d+" y2="\d+" stroke="#1d2733" stroke-width="4"', drawn)
    found = re.findall(r'points="([\d.]+),34 .*?>(\w) [\d.]+</text>', drawn)
    starts = {name: float(x) for x, name in found}
    assert starts["a"] < starts["c"] < starts["d"] < starts["b"]
    assert float(bar[0]) < starts["a"]
    assert starts["c"] < float(bar[1]) < starts["d"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium to click")
def test_a_click_on_a_head_sorts_and_one_on_a_mark_pins_its_name(page, tmp_path):
    clicks = """<script>
    const table = document.querySelector('#part0 table.sortable');
    const rows = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent).join();
    const heads = document.querySelectorAll('#part0 table.sortable thead th');
    heads[0].click(); const up = rows(); heads[0].click();
    const dot = document.querySelector('#part0 .dot[data-name=bad]');
    dot.dispatchEvent(new MouseEvent('click'));
    document.title = `${up} ${rows()} ${document.querySelectorAll('#part0 .dot.pinned').length}`;
    </script>"""
    file = tmp_path / "page.html"
    file.write_text(page + clicks)
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{file}"]
    seen = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    # in each of the three plots of the data set
    assert re.search(r"<title>(.*?)</title>", seen)[1] == "bad,dear,good good,dear,bad 3"
