"""`unetkit bench advise`: which networks to try on data that no benchmark has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unetkit.cli.arguments import read_words
from unetkit.cli.tables import as_text
from unetkit.errors import RecipeError, UnetkitError
from unetkit.recipe.limits import Limits
from unetkit.recipe.schema import DataSection
from unetkit.recipe.section import Positive, PositiveFloat, Section

Outcome = tuple[Any, str | None]


class AdviseWords(Section):
    """Which data to advise on, what a network may cost, and what to go by."""

    data: DataSection = DataSection()
    budget: Limits = Limits()
    evidence: str | list[str] | None = Field(
        None,
        description="benchmarks to go by: files of `bench table run=... evidence=FILE`, or folders; without it those "
        "that come with unetkit",
    )
    metric: Literal["iou", "dice", "nsd", "ap50", "pq"] = Field("iou", description="what models are ranked by")
    cases: Positive = Field(32, description="cases of the data to read for their traits")
    seconds: PositiveFloat = Field(5.0, description="with budget.ms: time that timing one model may take")
    device: str = Field("auto", description="with budget.ms: where to time them: auto, cpu, cuda or cuda:N")


def advise(words: list[str]) -> Outcome:
    """Measure a data set's traits and rank the networks that are within the budget."""
    args = read_words(words, AdviseWords)
    if unused := sorted({"seconds", "device"} & args.model_fields_set) if args.budget.ms is None else []:
        raise RecipeError(f"{', '.join(unused)} is for timing, which budget.ms asks for; add that or drop it")
    from unetkit.bench.cost import Setting
    from unetkit.bench.evidence import read_evidence
    from unetkit.bench.limits import in_words, setting_in_words, size_for
    from unetkit.bench.traits import measure_traits
    from unetkit.data.datasets import open_dataset
    from unetkit.infer.device import pick_device
    from unetkit.progress import case_bar

    evidence = [read_evidence(path, case_bar("measuring traits")) for path in _places(args.evidence)]
    dataset = open_dataset(args.data)
    traits = measure_traits(dataset, args.cases, case_bar("reading cases"))
    assert dataset.labels is not None
    size = size_for(traits.sides, args.data.patch_size or args.data.resize)
    setting = Setting(size, traits.channels, dataset.labels.num_outputs, pick_device(args.device))
    tables = _tables(args, evidence, traits, setting)
    document = {
        "data": dataset.name,
        "traits": traits.to_json(),
        "counted_at": {"size": list(size), "channels": setting.channels, "outputs": setting.classes},
        "budget": args.budget.model_dump(exclude_none=True),
        "tables": [document for document, _ in tables],
    }
    about = [(dataset.name, "traits"), *traits.lines()]
    head = "\n".join(f"{name:<19}{value}" for name, value in about)
    limits = f"budget             {in_words(args.budget)}; counted at {setting_in_words(setting)}"
    return document, "\n\n".join([f"{head}\n{limits}", *(text for _, text in tables)])


def _places(given: str | list[str] | None) -> list[Path]:
    from unetkit.bench.evidence import shipped_evidence

    if given is None:
        if shipped := shipped_evidence():
            return shipped
        raise RecipeError(
            "no evidence to advise by: none comes with this unetkit; give evidence=FILE, or the folder of a benchmark "
            "(`unetkit bench table run=FOLDER evidence=FILE` makes a file of one)"
        )
    named = given.split(",") if isinstance(given, str) else given
    return [Path(place.strip()).expanduser() for place in named]


def _tables(args: AdviseWords, evidence: list[Any], traits: Any, setting: Any) -> list[tuple[dict[str, Any], str]]:
    """Return document and text for each kind of start; that the other kind has no evidence is a line of text."""
    first = _table(args, "random", evidence, traits, setting)
    if not args.budget.pretrained:
        return [first]
    try:
        return [first, _table(args, "pretrained", evidence, traits, setting)]
    except UnetkitError as error:
        return [first, ({"start": "pretrained", "error": str(error)}, f"pretrained starts: {error}")]


def _table(args: AdviseWords, start: str, evidence: list[Any], traits: Any, setting: Any) -> tuple[dict[str, Any], str]:
    from unetkit.bench.advice_text import caveat_lines, method_lines
    from unetkit.bench.advise import advise as advise_on
    from unetkit.bench.advise import evidence_rows, find_basis, ranking
    from unetkit.bench.limits import within
    from unetkit.progress import case_bar

    basis = find_basis(evidence, start, args.metric, len(setting.size))
    costs, refused = within(
        basis.models, basis.params_m(), args.budget, setting, args.seconds, case_bar("counting models")
    )
    advice = advise_on(basis, traits, costs, refused)
    method, caveats = method_lines(advice), caveat_lines(advice, evidence)
    rows, known = ranking(advice), evidence_rows(advice)
    document = {"start": start, "metric": args.metric, "ranking": rows, "evidence": known}
    document |= {"method": method, "caveats": caveats}
    title = f"networks with {start} starts, by {args.metric} above the mean of them all"
    lines = "\n".join(f"- {line}" for line in [*method, *caveats])
    parts = [f"{title}\n{as_text(_shown(rows))}", f"evidence, the most alike first\n{as_text(_known(known))}", lines]
    return document, "\n\n".join(parts)


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = []
    for row in rows:
        line = {"rank": row["rank"], "model": row["model"], "measured": _signed(row["measured"])}
        line["error"] = f"{row['error']:.3f}"
        if "expected" in row:
            low, high = row["ranks"]
            interval = f"{_signed(row['low'])} to {_signed(row['high'])}"
            line |= {"expected": _signed(row["expected"]), "95 % interval": interval}
            line |= {"P(best)": f"{row['p_best']:.2f}", "ranks": f"{low:.0f}-{high:.0f}"}
            line |= {"level with first": row["as_first"]}
        counts = {"params M": "params_m", "GFLOPs": "gflops", "ms": "ms"}
        shown.append(line | {name: _count(row[key]) for name, key in counts.items() if key != "ms" or row[key]})
    return shown


def _known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: _count(value) for key, value in row.items()} for row in rows]


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _count(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
