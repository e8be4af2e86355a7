"""`unetkit bench`: run a benchmark, count and time what networks cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from unetkit.cli.advising import AdviseWords, advise
from unetkit.cli.arguments import described, read_words
from unetkit.cli.tables import as_text
from unetkit.errors import RecipeError, counted, nearest
from unetkit.recipe.bench import BenchRecipe, other_engine, read_bench
from unetkit.recipe.cluster import EngineSection, engine_words
from unetkit.recipe.section import Positive, PositiveFloat, Section
from unetkit.recipe.words import Tree

Outcome = tuple[Any, str | None]

FORMS = {
    "cost": "parameters, operations, memory and times of models: `unetkit bench cost size=[256,256] seconds=5`",
    "run": "all jobs of a benchmark: `unetkit bench recipe=FILE.yaml`, and again to go on",
    "report": "a page with tables, plots and tests: `unetkit bench report run=benches/x`",
    "table": "results.csv and cases.csv of a benchmark as far as it has come: `unetkit bench table run=benches/x`",
    "advise": "networks to try on your data: `unetkit bench advise data.root=FOLDER budget.params_m=10`",
}


class CostWords(Section):
    """What costs to tell, and at which size."""

    size: list[Positive] = Field([256, 256], description="side lengths: two for 2D, three for 3D")
    models: list[str] | None = Field(None, description="names; without it all that exist for so many dims")
    channels: Positive = Field(3, description="of the image")
    classes: Positive = Field(2, description="outputs of the network, background included")
    seconds: PositiveFloat | None = Field(None, description="time models too that take no longer than this each")
    throughput: bool = Field(False, description="look for the batch with most images a second")
    thop: bool = Field(False, description="multiply-accumulates by the rules of the package thop, as U-Bench has them")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: str = Field("auto", description="auto, fp32, bf16 or fp16")
    output: str | None = Field(None, description="file for the table, .csv")

    @model_validator(mode="after")
    def _agrees(self) -> CostWords:
        if self.throughput and self.seconds is None:
            raise ValueError("throughput=true times models: add seconds=5, the time that one may take")
        return self


class TableWords(Section):
    """Which benchmark to tell of."""

    run: str = Field(description="folder of a benchmark")
    evidence: str | None = Field(
        None, description="file to write too, .json: traits of the data and means of all runs, for `bench advise`"
    )


class RunWords(Section):
    """A benchmark's folder and what to do with it."""

    run: str = Field(description="folder of a benchmark")
    job: str | None = Field(None, description="do this job alone, as a cluster's task: DATASET/MODEL/seed_N")
    ticket: str | None = Field(
        None, description="with job: the attempt that the job was claimed for, as engines give it"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    retry: bool = Field(False, description="do failed jobs again")
    engine: Tree | None = Field(
        None, description="what starts the jobs from here on: local, ray or slurm, and its keys"
    )

    @model_validator(mode="after")
    def _agrees(self) -> RunWords:
        if self.job is None and self.ticket is not None:
            raise ValueError("ticket belongs to job=; drop it")
        if self.job is not None and (self.engine is not None or self.retry):
            raise ValueError("engine and retry are not used with job=, which does that job here; drop them")
        return self


class ReportWords(Section):
    """Which benchmark to report, and by what."""

    run: str = Field(description="folder of a benchmark")
    metric: Literal["iou", "dice", "nsd", "ap50", "pq"] = Field("iou", description="what models are compared by")
    seconds: PositiveFloat = Field(5.0, description="time that timing one model may take")
    device: str = Field("auto", description="where to time them: auto, cpu, cuda or cuda:N")


def help_text() -> str:
    """Return what `unetkit bench` can do, and the words that each form takes."""
    schemas: dict[str, type[Section]] = {
        "cost": CostWords,
        "run": BenchRecipe,
        "report": ReportWords,
        "table": TableWords,
        "advise": AdviseWords,
    }
    forms = [f"bench {form}: {FORMS[form]}\n{described(schema)}" for form, schema in schemas.items()]
    forms.append(f"engine=NAME, and engine.KEY=VALUE, of a run:\n{described(EngineSection)}")
    return "\n\n".join(forms)


def bench(words: list[str]) -> Outcome:
    """Do what the first word says: cost, report, table, advise, or a run with recipe=NAME or run=FOLDER."""
    form, rest = (words[0], words[1:]) if words and "=" not in words[0] else ("run", words)
    forms = {"cost": cost, "run": run, "report": report, "table": table, "advise": advise}
    if form not in forms:
        raise RecipeError(f"bench {form}: choose {', '.join(forms)}{nearest(form, forms)}")
    return forms[form](rest)


def cost(words: list[str]) -> Outcome:
    """Tell what models cost, one after the other."""
    args = read_words(words, CostWords)
    from unetkit.bench.cost import Setting, check_names, check_size, cost_rows
    from unetkit.bench.table import write_rows
    from unetkit.data.formats.files import remove_empty, require_writable
    from unetkit.infer.device import pick_device
    from unetkit.progress import case_bar

    size = check_size(args.size)
    names = check_names(args.models, len(size))
    if args.precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RecipeError(f"precision={args.precision}: choose auto, fp32, bf16 or fp16")
    if args.output:
        remove_empty(require_writable(Path(args.output).parent))
    setting = Setting(size, args.channels, args.classes, pick_device(args.device), args.precision)
    bar, rows = case_bar("counting"), []
    found = cost_rows(names, setting, seconds=args.seconds, thop=args.thop, throughput=args.throughput)
    for number, row in enumerate(found, start=1):
        rows.append({key: value for key, value in row.to_json().items() if value is not None})
        bar(number, len(names))
    if args.output:
        write_rows(Path(args.output), rows)
    told = f"{' x '.join(map(str, size))}, {counted(args.channels, 'channel')}, {counted(args.classes, 'output')}"
    told += "; gmacs as the package thop counts them" if args.thop else "; gmacs are half of torch's operations"
    told += "" if args.seconds is None else f", {setting.form} on {setting.device}"
    return {"setting": told, "rows": rows}, f"{as_text(_shown(rows))}\n{told}"


def run(words: list[str]) -> Outcome:
    """Do the jobs of a benchmark, or one of them."""
    words = engine_words(words)
    if any(word.startswith("run=") for word in words):
        args = read_words(words, RunWords)
        return _job(args) if args.job is not None else _go_on(args)
    own = [w for w in words if w.partition("=")[0] in ("device", "retry")]
    recipe, name = read_bench([w for w in words if w not in own])
    args = read_words([*own, "run=new"], RunWords)
    from unetkit.bench.folder import open_bench

    return _carry_out(open_bench(recipe, name), args, recipe.engine)


def table(words: list[str]) -> Outcome:
    """Write the tables of a benchmark."""
    args = read_words(words, TableWords)
    from unetkit.bench.folder import read_bench_folder
    from unetkit.bench.table import write_tables
    from unetkit.progress import case_bar

    folder = read_bench_folder(Path(args.run))
    written, rows = write_tables(folder)
    if args.evidence is not None:
        from unetkit.bench.evidence import gather, write_evidence

        written.append(write_evidence(Path(args.evidence), gather(folder, case_bar("measuring traits"))))
    return {"rows": rows, "written": [str(path) for path in written]}, _told(rows, written)


def report(words: list[str]) -> Outcome:
    """Time the networks of a benchmark and write its page."""
    args = read_words(words, ReportWords)
    from unetkit.bench.folder import read_bench_folder
    from unetkit.bench.report import write_bench_report
    from unetkit.progress import case_bar

    folder = read_bench_folder(Path(args.run))
    options: dict[str, Any] = {"metric": args.metric, "seconds": args.seconds, "device": args.device}
    written = write_bench_report(folder, **options, progress=case_bar("timing models"))
    pages = {start: str(path) for start, path in written.items()}
    return {"run": str(folder.path), "reports": pages}, "\n".join(f"report: {path}" for path in pages.values())


def _go_on(args: RunWords) -> Outcome:
    from unetkit.bench.folder import read_bench_folder

    folder = read_bench_folder(Path(args.run))
    return _carry_out(folder, args, other_engine(folder.bench, args.engine))


def _carry_out(folder: Any, args: RunWords, engine: EngineSection) -> Outcome:
    from unetkit.bench.queue import run_bench
    from unetkit.bench.ready import require_data
    from unetkit.bench.table import write_tables

    require_data(folder, retry=args.retry)
    states = run_bench(folder, device=args.device, retry=args.retry, engine=engine)
    written, rows = write_tables(folder)
    document = {"run": str(folder.path), "jobs": states, "written": [str(path) for path in written]}
    return {**document, "exit_code": 2 if states.get("failed") else 0}, _told(rows, written)


def _job(args: RunWords) -> Outcome:
    from unetkit.bench.folder import read_bench_folder
    from unetkit.bench.job import run_job_alone
    from unetkit.engine.memory import keep_heap

    keep_heap()
    folder = read_bench_folder(Path(args.run))
    result = run_job_alone(folder, folder.job(str(args.job)), args.device, args.ticket)
    return {"job": args.job, "dice": result["scores"]["dice"]}, f"{args.job}: Dice {result['scores']['dice']}"


_COLUMNS = ("model", "dataset", "target", "seed", "state", "params_m", "dice", "iou", "train_seconds")


def _told(rows: list[dict[str, Any]], written: list[Path]) -> str:
    columns = [*_COLUMNS, *(["reason"] if any(row.get("reason") for row in rows) else [])]
    shown = [{key: _number(row.get(key)) for key in columns} for row in rows]
    return "\n".join([as_text(shown), *(f"written to {path}" for path in written)])


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "note"))
    columns = [key for key in columns if key not in ("family", "year", "ms_p10", "ms_p90")]
    notes = any(row.get("note") for row in rows)
    return [
        {**{key: _number(row.get(key)) for key in columns}, **({"note": row.get("note", "")} if notes else {})}
        for row in rows
    ]


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return "-" if value is None else str(value)
