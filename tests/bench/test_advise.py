"""Advice from made-up evidence: what it ranks, what it keeps silent of, and what it refuses."""

import json
from math import isinf

import numpy as np
import pytest

from unetkit.bench.advice_text import caveat_lines, method_lines
from unetkit.bench.advise import advise, evidence_rows, find_basis, ranking
from unetkit.bench.cost import Setting
from unetkit.bench.evidence import Evidence, Known, Standing, write_evidence
from unetkit.bench.limits import refusal, size_for, within
from unetkit.bench.traits import Traits
from unetkit.cli import main
from unetkit.errors import DataError
from unetkit.recipe.limits import Limits

MODELS = {
    "small": {"name": "unet", "widths": [4, 8]},
    "wide": {"name": "unet", "widths": [8, 16]},
    "other": {"name": "unext_s"},
    "more": {"name": "egeunet"},
}
COST = {"params_m": 1.0, "gflops": 2.0, "step_mb": 30.0, "ms": None}
ABOUT = {"budget": {"steps": 500}, "seeds": [0, 1, 2], "devices": ["cpu"], "protocol": "held_out", "left_out": []}


def traits(**changed):
    values = {"modality": "grey", "dims": 2, "channels": 1, "classes": 1, "cases": 100, "sides": (64, 64)}
    measured = {"voxels": 4096.0, "foreground": 0.1, "contrast": 0.5, "sharpness": 0.3, "winding": 1.2}
    return Traits(**{**values, **measured, "components": 1.0, "measured": 32, **changed})


def known(name, means, *, of=None, size=(64, 64), start="random", models=tuple(MODELS)):
    runs = np.asarray(means, dtype=float)[:, None] + [-0.001, 0.0, 0.001]
    standing = Standing(tuple(models), runs, 1e-5 * np.eye(len(runs)), 40)
    return Known(name, size, of or traits(), {(start, "iou"): standing}, {m: {"params_m": 0.05} for m in models})


def evidence(*datasets, name="made", models=None, **about):
    return Evidence(name, models or MODELS, datasets, {**ABOUT, **about})


def advised(*datasets, of=None, costs=None):
    basis = find_basis([evidence(*datasets)], "random", "iou", 2)
    return advise(basis, of or traits(), costs or dict.fromkeys(basis.models, COST), {})


def two_kinds(count=8, effect=0.05):
    """Half the data sets are sharp and suit the first two models, half are blurred and suit the others."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        sharp = number % 2 == 0
        suits = np.array([1, 1, -1, -1]) * (effect if sharp else -effect)
        seen = traits(sharpness=0.8 if sharp else 0.1, winding=8.0 if sharp else 1.1, foreground=0.02 if sharp else 0.3)
        made.append(known(f"d{number}", 0.7 + suits + 0.01 * rng.normal(size=4), of=seen))
    return made


def test_traits_rank_where_they_have_been_shown_to_help():
    sets = two_kinds()
    sharp = advised(*sets, of=traits(sharpness=0.75, winding=7.0, foreground=0.03))
    assert sharp.trial.helps
    assert sharp.bandwidth < 2
    assert {sharp.models[i] for i in sharp.order[:2]} == {"small", "wide"}
    assert set(sharp.alike()) <= {"small", "wide"}
    assert evidence_rows(sharp)[0]["dataset"] in ("d0", "d2", "d4", "d6")
    assert sum(row["weight"] for row in evidence_rows(sharp)[:4]) > 0.9
    first = ranking(sharp)[0]
    assert first["low"] < 0.05 < first["high"] < 0.2
    assert first["p_best"] + ranking(sharp)[1]["p_best"] > 0.9
    assert method_lines(sharp)[0].startswith("traits help, so data sets weigh by likeness")
    blurred = advised(*sets, of=traits(sharpness=0.1, winding=1.2, foreground=0.25))
    assert {blurred.models[i] for i in blurred.order[:2]} == {"other", "more"}


def test_where_traits_do_not_help_the_plain_average_ranks_and_that_is_said():
    rng = np.random.default_rng(1)
    sets = [
        known(f"d{n}", [0.9, 0.7, 0.72, 0.71] + 0.01 * rng.normal(size=4), of=traits(sharpness=0.1 * n))
        for n in range(6)
    ]
    found = advised(*sets)
    assert isinf(found.bandwidth)
    np.testing.assert_allclose(found.weights, 1 / 6)
    rows = ranking(found)
    assert rows[0]["model"] == "small"
    assert rows[0]["p_best"] > 0.95
    assert rows[0]["measured"] == pytest.approx(found.gains[:, 0].mean())
    lines = method_lines(found)
    assert lines[0].startswith("traits have not been shown to help, so ranked by the plain average: leaving out each")
    assert lines[1] == "not told from small: none; the others are expected to be behind"
    noise = np.sqrt((1e-5 + 1e-6 / 3) * 0.75)  # cases, and three runs 0.001 apart; less the mean of four models
    assert found.spread()[1] == pytest.approx(noise)
    assert lines[2].startswith("expected: the measured difference, drawn towards 0")
    assert f"{noise:.3f}" in lines[3]


def test_level_models_are_said_to_be():
    rng = np.random.default_rng(2)
    found = advised(*(known(f"d{n}", 0.7 + 0.02 * rng.normal(size=4)) for n in range(4)))
    assert len(found.alike()) == 3
    lines = method_lines(found)
    assert "with 4 data sets p cannot fall below 0.062" in lines[0]
    assert lines[1].startswith("none of the others can be told from")
    assert all(row["as_first"] for row in ranking(found))


def test_few_data_sets_give_no_interval_by_hand():
    found = advised(known("a", [0.8, 0.7, 0.6, 0.5]), known("b", [0.6, 0.7, 0.6, 0.5]))
    rows = ranking(found)
    # means of 0.65 and 0.6: gains 0.15 0.05 -0.05 -0.15 and 0 0.1 0 -0.1
    assert [(row["model"], round(row["measured"], 6)) for row in rows] == [
        ("small", 0.075),
        ("wide", 0.075),
        ("other", -0.025),
        ("more", -0.125),
    ]
    assert "expected" not in rows[0]
    # of the mean of two data sets, by 40 cases and three runs 0.001 apart, less the mean of four models
    assert rows[0]["error"] == pytest.approx(np.sqrt((1e-5 + 1e-6 / 3) * 0.75 / 2))
    assert method_lines(found)[0].startswith("2 data sets: too few to tell what to expect on another one")
    three = advised(*(known(n, [0.8, 0.7, 0.6, 0.5]) for n in "abc"))
    assert three.trial is None
    assert method_lines(three)[0].startswith("3 data sets: too few to tell whether traits help")
    assert "expected" in ranking(three)[0]
    one = advised(known("a", [0.8, 0.7, 0.6, 0.5]), costs={"wide": COST})
    assert method_lines(one) == ["a single model: there is nothing to compare it with"]


def test_models_are_compared_where_all_were_tested():
    part = known("b", [0.6, 0.7], models=("small", "other"))
    basis = find_basis([evidence(known("a", [0.8, 0.7, 0.6, 0.5]), part)], "random", "iou", 2)
    assert list(basis.models) == ["small", "other"]
    assert basis.partial == {"wide": ("b",), "more": ("b",)}
    assert basis.without == ()
    found = advise(basis, traits(sharpness=0.9), dict.fromkeys(basis.models, COST), {"big": "too big"})
    np.testing.assert_allclose(found.gains, [[0.1, -0.1], [-0.05, 0.05]])
    lines = caveat_lines(found, [evidence(part, protocol="ubench", left_out=["torn"])])
    assert "not compared: wide has no scores on b" in lines
    assert "not advised: big: too big" in lines
    assert any("500 steps, 3 seeds, on cpu" in line for line in lines)
    assert any("flatters them all" in line for line in lines)
    assert "made: no results, or none on the same cases, of torn" in lines
    assert not any("look like" in line or "only once" in line for line in lines)
    once = Known(
        "a",
        (64, 64),
        traits(),
        {("random", "iou"): Standing(("small", "wide"), np.array([[0.5, 0.6], [0.7, np.nan]]), np.eye(2), 9)},
        {},
    )
    assert "trained only once on a; how far seeds matter" in " ".join(caveat_lines(advised(once), []))
    two = [
        known("a", [1, 0, 0, 0]),
        known("b", [1, 0, 0, 0], start="pretrained"),
        known("c", [1, 0, 0, 0], size=(8,) * 3),
    ]
    lines = caveat_lines(advised(*two), [])
    assert "not used: b, without iou of random starts" in lines
    assert any("look like a itself" in line for line in caveat_lines(advised(known("a", [1, 0, 0, 0])), []))


@pytest.mark.parametrize(
    ("files", "start", "dims", "told"),
    [
        ([evidence(known("a", [1, 0, 0, 0]))], "random", 3, "no evidence on iou of 3D networks with random starts"),
        ([evidence(known("a", [1, 0, 0, 0]))], "pretrained", 2, "there is 2D iou of random starts"),
        ([evidence(known("a", [1, 0, 0, 0]))] * 2, "random", 2, "'a' stands in two of the files"),
        (
            [
                evidence(known("a", [1, 0], models=("small", "wide"))),
                evidence(known("b", [1, 0], models=("other", "more"))),
            ],
            "random",
            2,
            "no model was tested on all of a, b",
        ),
        (
            [
                evidence(known("a", [1, 0, 0, 0])),
                evidence(known("b", [1, 0, 0, 0]), name="two", models={**MODELS, "small": {"name": "unetpp"}}),
            ],
            "random",
            2,
            "'small' is another network in two",
        ),
    ],
)
def test_evidence_that_does_not_fit_together_is_refused(files, start, dims, told):
    with pytest.raises(DataError, match=told):
        find_basis(files, start, "iou", dims)


def test_limits_are_checked_on_what_was_counted():
    assert refusal(COST, Limits(params_m=1.0, gflops=2.0, memory_gb=0.03)) is None
    assert refusal(COST, Limits(gflops=1.5)) == "2 GFLOPs, the limit is 1.5"
    assert refusal(COST, Limits(memory_gb=0.02)) == "30 MB of memory, the limit is 20"
    assert refusal({**COST, "note": "not timed: too slow"}, Limits(ms=5)) == "ms not known: not timed: too slow"
    assert size_for((300, 200), None) == (256, 200)
    assert size_for((300, 200, 40), None) == (96, 96, 40)
    assert size_for((300, 200, 40), (32, 32)) == (32, 32)
    # what is far too large by the evidence is not built; its name would fail
    models = {**MODELS, "huge": {"name": "no_such_model"}}
    costs, refused = within(models, {"huge": 40.0}, Limits(params_m=0.003), Setting((32, 32), 1, 2))
    assert list(costs) == ["small"]
    assert set(refused) == {"wide", "other", "more", "huge"}
    assert refused["huge"] == "40 million parameters, the limit is 0.003"
    _, unknown = within({"own": {"name": "no_such_model"}}, {}, Limits(), Setting((32, 32), 1, 2))
    assert unknown["own"] == "this unetkit has no model no_such_model; register it as where it was tested"
    with pytest.raises(DataError, match="none of 4 models is within it"):
        advise(find_basis([evidence(known("a", [1, 0, 0, 0]))], "random", "iou", 2), traits(), {}, refused)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data are kept below the user's home
    return tmp_path


DATA = ("data.dataset=phantom2d", "data.cases=4", "data.generator.size=[32,32]", "data.patch_size=[32,32]")


def test_advice_on_the_command_line(home, capsys):
    path = write_evidence(home / "e.json", evidence(*two_kinds()))
    words = ["bench", "advise", *DATA, f"evidence={path}"]
    assert main([*words, "budget.params_m=0.2", "budget.pretrained=true", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    random, trained = document["tables"]
    assert {row["model"] for row in random["ranking"]} == {"small", "wide", "more"}
    assert any("not advised: other" in line for line in random["caveats"])
    assert len(random["evidence"]) == 8
    assert document["counted_at"] == {"size": [32, 32], "channels": 1, "outputs": 9}
    assert document["traits"]["modality"] == "grey"
    assert "no evidence on iou of 2D networks with pretrained starts" in trained["error"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "networks with random starts, by iou above the mean of them all" in text
    assert "95 % interval" in text
    assert "foreground share" in text
    assert main([*words[:-1], f"evidence={path},{path}"]) == 2
    assert "'d0' stands in two of the files" in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert "budget.params_m    trainable parameters" in text
    assert "data.KEY           as in a recipe" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("evidence=nothing.json",), "neither a benchmark's folder nor a file"),
        (("seconds=3",), "seconds is for timing, which budget.ms asks for"),
        (("budget.flops=3",), "budget.flops"),
        (("budget.params_m=0",), "budget.params_m"),
    ],
)
def test_words_that_cannot_be_followed_are_refused_in_one_line(home, capsys, words, told):
    assert main(["bench", "advise", *DATA, *words]) == 2
    assert told in capsys.readouterr().err
