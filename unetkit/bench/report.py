"""From the folder of a benchmark to its page: scores, costs, verdicts, and a text on how all of it came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unetkit.bench.analysis import Verdict, collect, costs_of, judge, overall
from unetkit.bench.costs import Costs, bench_costs
from unetkit.bench.folder import BROKEN, DONE, BenchFolder
from unetkit.bench.gallery import disagreements
from unetkit.bench.page import BenchData, Part, render_bench
from unetkit.checkpoint import versions
from unetkit.data.catalog import DATASETS
from unetkit.engine.result import machine
from unetkit.errors import DataError, counted
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
    written = {}
    for pretrained, start in STARTS.items():
        data = bench_data(folder, costs, metric, pretrained, device)
        if data is not None:
            written[start] = write_page(folder.path / f"report_{start}.html", render_bench(data))
    if not written:
        raise DataError(f"{folder.path}: no job is done yet; run it with `unetkit bench run={folder.path}`")
    return written


def bench_data(
    folder: BenchFolder, costs: Costs, metric: str, pretrained: bool, device: str, *, pictures: bool = True
) -> BenchData | None:
    """Return what the page of one kind of start says; None if no such job is done. Pictures take predictions."""
    found = collect(folder, metric, pretrained)
    if not found:
        return None
    anchors = folder.bench.anchors
    verdicts = {t: judge(scores, costs_of(costs, _source(folder, t)), anchors) for t, scores in found.items()}
    own = {target: verdict for target, verdict in verdicts.items() if target in folder.bench.datasets}
    parts = [_part(folder, costs, target, verdict, pretrained) for target, verdict in verdicts.items()]
    states = Counter(folder.state(job) for job in folder.jobs)
    models = labelled(folder.bench)
    shown = [model for model in models if any(model in scores.models for scores in found.values())]
    return BenchData(
        f"{folder.path.name}: {STARTS[pretrained]} starts",
        parts,
        overall(list(own.values())),
        method(folder.bench, metric, pretrained),
        {job.name: folder.reason(job) for job in folder.jobs if folder.state(job) == BROKEN},
        len(folder.jobs) - states[DONE] - states[BROKEN],
        {model: catalog()[str(models[model]["name"])].family for model in shown},
        machine(pick_device(device)),
        versions(),
        "".join(disagreements(folder, verdict, device) for verdict in own.values()) if pictures else "",
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
        "Protocol": _PROTOCOLS[bench.protocol],
        "Intervals": "percentile bootstrap, 2000 draws of cases (patients as a whole, the same ones for every model) "
        "and of each model's runs",
        "Tests": "Wilcoxon's signed-rank test over cases, of means over runs, corrected for all pairs by Holm's rule",
        "U-Score": f"arXiv:2510.07041; anchors: {bench.anchors}; multiply-accumulates as half of torch's operations, "
        "speed of single images on this page's machine, IoU from 0 to 1",
    }
    if bench.zero_shot:
        other = ", ".join(f"{name} by networks of {t.source}" for name, t in bench.zero_shot.items())
        told["Other data"] = f"tested as they are, without training: {other}"
    return told


_PROTOCOLS = {
    "held_out": "the checkpoint is chosen on the validation part, the test part is scored once",
    "ubench": "as U-Bench: the checkpoint is chosen on the very cases that are scored, which flatters every model",
}


def _spent(budget: Budget) -> str:
    steps = None if budget.steps is None else counted(budget.steps, "step")
    minutes = None if budget.minutes is None else f"{budget.minutes:g} minutes"
    return " or ".join(part for part in (steps, minutes) if part)


def _part(folder: BenchFolder, costs: Costs, target: str, verdict: Verdict, pretrained: bool) -> Part:
    source = _source(folder, target)
    others = {}
    for name in _OTHERS:
        if name == verdict.scores.metric:
            continue
        try:
            found = collect(folder, name, pretrained).get(target)
        except DataError:  # a metric that is defined in no case of some run
            continue
        if found is not None:
            means = np.nanmean(found.values, axis=(1, 2))
            others[name] = dict(zip(found.models, map(float, means), strict=True))
    named = folder.bench.datasets.get(target, {}).get("data", {}).get("dataset")
    known = DATASETS.get(str(named))
    title = target if source == target else f"{source} → {target}"
    return Part(title, verdict, costs_of(costs, source), others, known is not None and known.generated)


def _source(folder: BenchFolder, target: str) -> str:
    """Return the data set whose networks are tested on a target."""
    transfer = folder.bench.zero_shot.get(target)
    return target if transfer is None else transfer.source
