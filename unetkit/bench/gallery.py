"""The cases that models disagree on most, each as the best, the middle and the worst model sees it."""

from __future__ import annotations

from html import escape

import numpy as np

from unetkit.bench.analysis import Scores, Verdict
from unetkit.bench.drawings import legend
from unetkit.bench.folder import BenchFolder
from unetkit.bench.job import RUN
from unetkit.data.cases import read_case
from unetkit.evaluation import cases_of_run
from unetkit.infer.predictor import Predictor
from unetkit.recipe.bench import BenchJob
from unetkit.report.figures import data_uri
from unetkit.report.overlay import ERROR_LEGEND, overlay, square_pixels
from unetkit.report.picture import take_picture

_CASES = 2


def gallery(pictures: str) -> str:
    """Return pictures, as HTML, under a line that says what their colours mean; nothing for none."""
    return legend({name: f"rgb{colour}" for name, colour in ERROR_LEGEND.items()}) + pictures if pictures else ""


def disagreements(folder: BenchFolder, verdict: Verdict, device: str) -> str:
    """Return pictures, as HTML, of two test cases of a data set on which the models' scores are furthest apart.

    The networks predict them anew, since a benchmark keeps no label maps.
    """
    scores = verdict.scores
    if len(scores.models) < 2:
        return ""
    spread = scores.means.std(axis=0)
    chosen = [scores.cases[i] for i in np.argsort(-spread, kind="stable")[:_CASES]]
    order = verdict.order
    shown = dict.fromkeys([order[0], order[len(order) // 2], order[-1]])
    jobs = {scores.models[m]: _job(folder, scores, scores.models[m]) for m in shown}
    figures: dict[str, list[str]] = {case: [] for case in chosen}
    for model, job in jobs.items():
        run = folder.of(job) / RUN
        predictor = Predictor.from_checkpoint(run, device)
        side = "val" if folder.bench.protocol == "ubench" else "test"
        for case in (c for c in cases_of_run(run, side, {}) if c.id in figures):
            image, label = read_case(case, predictor.plan.labels)
            assert label is not None  # it was scored
            encoded = predictor.encoded(predictor.prepare(image, case.id))
            picture = square_pixels(take_picture(image, encoded, label.data))
            value = scores.means[scores.models.index(model), scores.cases.index(case.id)]
            figures[case.id].append(
                f'<figure><img alt="{escape(model)} on case {escape(case.id)}" '
                f'src="{data_uri(overlay(picture.image, picture.pred, picture.ref))}">'
                f"<figcaption>{escape(model)}: {escape(scores.metric)} {value:.3f}</figcaption></figure>"
            )
    return "".join(
        f"<div class=case><h3>{escape(scores.target)}: {escape(case)}</h3>"
        f"<div class=panels>{''.join(drawn)}</div></div>"
        for case, drawn in figures.items()
    )


def _job(folder: BenchFolder, scores: Scores, model: str) -> BenchJob:
    """Return the first done job of a model on the data set."""
    found = (j for j in folder.jobs if (j.model, j.dataset) == (model, scores.target) and folder.has_result(j))
    return next(found)
