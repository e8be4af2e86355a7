"""From the folder of a benchmark to its page: scores, costs, verdicts, and a text on how all of it came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.bench.analysis import Results, Scores, Verdict, collect, costs_of, judge, overall
from unetkit.bench.costs import Costs, bench_costs
from unetkit.bench.folder import BROKEN, DONE, BenchFolder
from unetkit.bench.gallery import disagreements, gallery
from unetkit.bench.page import BenchData, Part, render_bench
from unetkit.checkpoint import versions
from unetkit.data.catalog import DATASETS
from unetkit.engine.result import machine
from unetkit.errors import DataError, UnetkitError, counted
from unetkit.infer.device import pick_device
from unetkit.recipe.bench import BenchRecipe, Budget, labelled
from unetkit.registry import catalog
from unetkit.report.write import write_page

STARTS = {False: "random", True: "pretrained"}
_OTHERS = ("dice", "hd95", "nsd", "ap50", "pq")


def write_bench_report(
    folder: BenchFolder,
    *,
    metric: str = "iou",
    seconds: float = 5.0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write a page for the networks that started from random weights and one for those that did not; return both.

    `seconds` is what timing one model may take. Raises DataError where no job is done or a page cannot be written.
    """
    costs = bench_costs(folder, seconds, device, progress)
    results, written = list(folder.results()), {}
    for pretrained, start in STARTS.items():
        data = bench_data(folder, results, costs, metric, pretrained, device)
        if data is not None:
            written[start] = write_page(folder.path / f"report_{start}.html", render_bench(data))
    if not written:
        raise DataError(f"{folder.path}: no job is done yet; run it with `unetkit bench run={folder.path}`")
    return written


def bench_data(
    folder: BenchFolder,
    results: Results,
    costs: Costs,
    metric: str,
    pretrained: bool,
    device: str,
    *,
    pictures: bool = True,
) -> BenchData | None:
    """Return what the page of one kind of start says; None if no such job is done. Pictures take predictions."""
    found = collect(results, metric, pretrained)
    if not found:
        return None
    others = {name: _means(results, name, pretrained) for name in _OTHERS if name != metric}
    verdicts = {t: _judged(folder, scores, costs_of(costs, _source(folder, t))) for t, scores in found.items()}
    own = {target: verdict for target, verdict in verdicts.items() if target in folder.bench.datasets}
    parts = [_part(folder, costs, target, verdict, others) for target, verdict in verdicts.items()]
    states = [folder.state(job) for job in folder.jobs]
    counts = Counter(states)
    models = labelled(folder.bench)
    shown = [model for model in models if any(model in scores.models for scores in found.values())]
    return BenchData(
        f"{folder.path.name}: {STARTS[pretrained]} starts",
        parts,
        overall(list(own.values())),
        method(folder.bench, metric, pretrained) | _left_out(results, found, metric, pretrained),
        {job.name: folder.reason(job) for job, state in zip(folder.jobs, states, strict=True) if state == BROKEN},
        len(folder.jobs) - counts[DONE] - counts[BROKEN],
        {model: catalog()[str(models[model]["name"])].family for model in shown},
        machine(pick_device(device)),
        versions(),
        gallery("".join(_pictures(folder, verdict, device) for verdict in own.values()) if pictures else ""),
    )


def method(bench: BenchRecipe, metric: str, pretrained: bool) -> dict[str, str]:
    """Return what a reader has to know of how the numbers came about."""
    told = {
        "What is compared": f"mean {metric} over the classes of a case, then over cases; only cases that every model "
        "has a score of",
        "Training": f"{_spent(bench.budget)}, alike for every model; {counted(len(bench.seeds), 'seed')}, each with "
        f"weights, patches and augmentation of its own; one recipe for all"
        + (f", but for {', '.join(bench.per_model)}" if bench.per_model else ""),
        "Start": "weights trained on other images"
        if pretrained
        else "random weights; networks that start trained are on a page of their own",
        **_protocol(bench),
        "Intervals": "percentile bootstrap, 2000 draws of cases (patients as a whole, the same ones for every model); "
        "what other runs would add is drawn from Student's distribution with the spread of each model's own",
        "Tests": "Wilcoxon's signed-rank test over cases (means of patients who have several), of means over runs, "
        "corrected for all pairs by Holm's rule; it knows nothing of the chance of training, so that models count as "
        "different only where their interval leaves out 0 too",
        "U-Score": "; ".join(["arXiv:2510.07041, IoU from 0 to 1", *_anchors(bench)]),
    }
    if bench.zero_shot:
        other = ", ".join(f"{name} by networks of {t.source}" for name, t in bench.zero_shot.items())
        told["Other data"] = f"tested as they are, without training: {other}"
    return told


_COUNTED = {
    True: "multiply-accumulates as half of torch's operations, speed of single images on this page's machine",
    False: "2D networks alone, at 256 x 256, three channels and one output; multiply-accumulates as thop counts them; "
    "anchors of speed moved to this page's machine by U-Bench's U-Net, timed beside the others; beside them, from the "
    "same costs, scores by the cohort's own anchors",
}


def _anchors(bench: BenchRecipe) -> list[str]:
    """Return for each kind of anchors which data sets have them, and how costs are counted there."""
    named = {name: bench.anchors_of(name) for name in bench.datasets}
    frozen = {name: anchors for name, anchors in named.items() if anchors != "cohort"}
    told = []
    if len(frozen) < len(named):
        told.append(f"anchors: cohort; {_COUNTED[True]}")
    if frozen:
        told.append(f"anchors of {', '.join(f'{n}: {a}' for n, a in frozen.items())}; {_COUNTED[False]}")
    return told


_PROTOCOLS = {
    "held_out": "the checkpoint is chosen on the validation part, the test part is scored once",
    "ubench": "as U-Bench: the checkpoint is chosen on the very cases that are scored, which flatters every model; a "
    "class absent from prediction and reference counts 0, unless the recipe says otherwise (evaluate.empty)",
}
_UBENCH_FAULTS = (
    "the best of all epochs is picked on the reported cases, so that scores are maxima and no held-out test is left; "
    "one seed, so that the chance of training passes for a difference between models; pretrained and random starts in "
    "one ranking (39 of 106 of its networks start trained, its ten best among them), which are kept apart here; FLOPs "
    "counted by thop, which misses attention and scans; no intervals, and t-tests without correction for some 3000 "
    "comparisons; an empty case that is rightly left empty scores 0; few cases (13 to 67 in five data sets)"
)
_UBENCH_DIFFERENCES = (
    "pictures are normalised by ImageNet's mean and deviation and then divided by 255 once more in most of its data "
    "sets, here as data.normalization says; it scores at the resized size, here on each case's own grid; it chooses by "
    "IoU, here by Dice, which ranks single cases alike but not means; its deep supervision averages all outputs, here "
    "coarser ones count less; grey pictures keep their one channel; its own 7:3 lists are in no repository, so that "
    "splits are drawn. Training is by the recipe, and recipe=bench_ubench has U-Bench's as far as keys can say it"
)


def _protocol(bench: BenchRecipe) -> dict[str, str]:
    """Return how checkpoints are chosen and cases scored; of U-Bench's way also its faults, and what differs here."""
    told = {"Protocol": _PROTOCOLS[bench.protocol]}
    if bench.protocol == "ubench":
        told |= {"Faults of U-Bench's protocol": _UBENCH_FAULTS, "Not as in U-Bench": _UBENCH_DIFFERENCES}
    return told


def _spent(budget: Budget) -> str:
    steps = None if budget.steps is None else counted(budget.steps, "step")
    epochs = None if budget.epochs is None else f"{counted(budget.epochs, 'pass')} over the training cases"
    minutes = None if budget.minutes is None else f"{budget.minutes:g} minutes"
    return " or ".join(part for part in (steps, epochs, minutes) if part)


def _left_out(results: Results, found: Mapping[str, Scores], metric: str, pretrained: bool) -> dict[str, str]:
    """Return which tested data sets the page cannot compare models on, as an answer of the method; nothing for none."""
    tested = dict.fromkeys(
        target for job, result in results if result["pretrained"] == pretrained
        for target in (job.dataset, *result["zero_shot"])
    )  # fmt: skip
    missing = [target for target in tested if target not in found]
    return {"Left out": f"{', '.join(missing)}: no case in which every model has {metric}"} if missing else {}


def _pictures(folder: BenchFolder, verdict: Verdict, device: str) -> str:
    """Return a data set's pictures, or why there are none: data or weights may lie elsewhere by now."""
    try:
        return disagreements(folder, verdict, device)
    except UnetkitError as error:
        return f"<p>{escape(verdict.scores.target)}: no pictures, {escape(str(error))}</p>"


def _judged(folder: BenchFolder, scores: Scores, costs: Mapping[str, dict[str, Any]]) -> Verdict:
    volumes = any(len(row["size"]) == 3 for row in costs.values())
    # U-Bench has no volumes, so its anchors say nothing of networks that see them
    return judge(scores, costs, "cohort" if volumes else folder.bench.anchors_of(scores.target))


def _means(results: Results, metric: str, pretrained: bool) -> dict[str, dict[str, float]]:
    """Return the means of a metric over runs and cases, by tested data set and model; nothing where it is undefined."""
    found: dict[str, Scores] = {}
    with suppress(DataError):  # a metric that is defined nowhere, as AP is without objects
        found = collect(results, metric, pretrained)
    means = {target: np.nanmean(scores.values, axis=(1, 2)) for target, scores in found.items()}
    return {target: dict(zip(found[target].models, map(float, of), strict=True)) for target, of in means.items()}


def _part(
    folder: BenchFolder, costs: Costs, target: str, verdict: Verdict, others: Mapping[str, dict[str, dict[str, float]]]
) -> Part:
    source = _source(folder, target)
    also = {name: means[target] for name, means in others.items() if target in means}
    named = folder.bench.datasets.get(target, {}).get("data", {}).get("dataset")
    known = DATASETS.get(str(named))
    title = target if source == target else f"{source} → {target}"
    phantom = known is not None and known.generated
    return Part(title, verdict, costs_of(costs, source), also, phantom, source != target)


def _source(folder: BenchFolder, target: str) -> str:
    """Return the data set whose networks are tested on a target."""
    transfer = folder.bench.zero_shot.get(target)
    return target if transfer is None else transfer.source
