"""What each verb does: words in, (JSON document, text for people) out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetkit.cli import tell
from unetkit.errors import RecipeError, nearest

if TYPE_CHECKING:
    from unetkit.cli.arguments import EvaluateWords
    from unetkit.progress import Progress

Outcome = tuple[Any, str | None]
"""JSON document and text; no text where it falls to another process to answer."""


def run_list(words: list[str]) -> Outcome:
    """List models (with filters), recipes, benchmarks or data sets."""
    from unetkit.cli import tables

    kinds = {
        "models": tables.models,
        "recipes": tables.recipes,
        "datasets": tables.datasets,
        "benches": tables.benches,
    }
    kind, *rest = words or ["models"]
    if "=" in kind:  # a filter at once: models are meant
        kind, rest = "models", words
    if kind not in kinds:
        raise RecipeError(f"list {kind}: choose models, recipes, datasets or benches{nearest(kind, kinds)}")
    if rest and kind != "models":
        raise RecipeError(f"list {kind} takes no filters, given: {' '.join(rest)}")
    rows = kinds[kind](rest)
    return {kind: rows}, tables.as_text(rows)


def run_show(words: list[str]) -> Outcome:
    """Show a recipe with origins, a model's card, a data set, or a run's recipe."""
    from unetkit.cli import tables

    # Cards answer from registries alone; everything else is a recipe, which may have any key.
    heads = {w.partition("=")[0]: w.partition("=")[2] for w in words}
    if "model" in heads and {"draw", "dims"} & set(heads):
        return _draw(words)
    for key, card in (("model", tables.model_card), ("dataset", tables.dataset_card), ("run", tables.run_card)):
        if key in heads:
            if len(words) > 1:
                more = " but draw=FILE.svg and dims=2 or 3" if key == "model" else ""
                raise RecipeError(f"show {key}=NAME takes no further words{more}, given: {' '.join(words)}")
            return card(heads[key])
    from unetkit.recipe import AUTO, resolve

    resolved = resolve(words, AUTO)
    document = {"recipe": json.loads(resolved.recipe.model_dump_json()), "origins": resolved.origins}
    return document, "\n".join(resolved.lines())


def _draw(words: list[str]) -> Outcome:
    """Write the picture of a network beside its card."""
    from unetkit.cli import tables
    from unetkit.cli.arguments import ShowModelWords, read_words

    args = read_words(words, ShowModelWords)
    card, text = tables.model_card(args.model)
    from unetkit.data.formats.files import remove_empty, replacing, require_writable
    from unetkit.draw import draw_model

    path = Path(args.draw)
    remove_empty(require_writable(path.parent))
    drawn = draw_model(args.model, dims=args.dims)
    with replacing(path) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    return card | {"drawing": str(path)}, f"{text}\n\ndrawn to {path}"


def run_inspect(words: list[str]) -> Outcome:
    """Say what a data folder is and what is wrong with it; problems give exit code 2."""
    from unetkit.recipe import resolve

    recipe = resolve(words).recipe
    from unetkit.data.datasets import open_dataset
    from unetkit.data.inspect import inspect_dataset, inspection_table
    from unetkit.progress import case_bar

    found = inspect_dataset(open_dataset(recipe.data), progress=case_bar("reading cases"))
    return {**found, "exit_code": 2 if found["problems"] else 0}, inspection_table(found)


def run_plan(words: list[str]) -> Outcome:
    """Measure the data set and print the plan of each configuration; `explain=true` with a reason for each decision.

    `output=FOLDER` receives fingerprint.json, its page fingerprint.html, and the plans (planner=nnunet: in nnU-Net's
    format too).
    """
    from unetkit.cli.arguments import PlanWords, read_words
    from unetkit.recipe import AUTO, resolve

    own = [w for w in words if w.partition("=")[0] in PlanWords.model_fields]
    args = read_words(own, PlanWords)
    resolved = resolve([w for w in words if w not in own], AUTO)
    from unetkit.cli.planning import decide_plans, plan_table, plan_text, write_for_nnunet, write_plans
    from unetkit.data.formats.files import remove_empty, require_writable

    # The key of a recipe says where runs go, which makes none; on the command line it is meant for the plan.
    output = Path(resolved.recipe.output) if resolved.origins.get("output") == "command line" else None
    if output is not None:  # before any work; the folder itself is made when there is something to put in
        remove_empty(require_writable(output))
    name, fingerprint, plans = decide_plans(resolved.recipe)
    tell(f"note: {note}" for note in fingerprint.notes)
    told = plan_text if args.explain else plan_table
    text = "\n\n".join(told(plan, fingerprint, resolved.recipe) for plan in plans.values())
    trees = {configuration: plan.to_json() for configuration, plan in plans.items()}
    document = trees if len(trees) > 1 else next(iter(trees.values()))
    if output is None:
        return document, text
    written = write_plans(output, name, fingerprint, plans)
    written += write_for_nnunet(output, name, fingerprint, plans, resolved.recipe)
    return {**document, "written": [str(path) for path in written]}, "\n".join([text, "", f"written to {output}"])


def run_train(words: list[str]) -> Outcome:
    """Train, validate and report; `resume=RUN` goes on where a run or study stopped."""
    from unetkit.cli.arguments import resume_words
    from unetkit.recipe import AUTO, resolve

    # A resumed run must end as if it had never stopped, so that nothing of its recipe that matters can be changed.
    resume = [w.partition("=")[2] for w in words if w.startswith("resume=")]
    if len(resume) > 1 or resume == [""]:
        raise RecipeError(f"{' '.join(f'resume={run}' for run in resume)}: give one run folder to go on with")
    rest = [w for w in words if not w.startswith("resume=")]
    resolved = None if resume else resolve(rest, AUTO)
    changes = resume_words(rest) if resume else {}
    from unetkit.engine.distributed import joined
    from unetkit.engine.memory import keep_heap
    from unetkit.engine.train import train

    # For the whole process, so it is for the command line to decide, not for an import.
    keep_heap()
    with joined(one_voice=True) as group:
        if resolved is None:
            result = train(resume=resume[0], changes=changes, group=group)
        else:
            result = train(resolved.recipe, resolved.origins, source=resolved.source, group=group)
    # A case that could not be scored is the user's to mend; the run itself is whole.
    document = {**result.to_json(), "exit_code": 2 if result.failures else 0}
    return document, result.summary() if group.leads else None


def run_predict(words: list[str]) -> Outcome:
    """Write a label map for each image; what failed is named and gives exit code 2."""
    from unetkit.cli.arguments import PredictWords, given, of_study, read_words

    args = read_words(words, PredictWords)
    import unetkit
    from unetkit.checkpoint import read_recipe
    from unetkit.engine.memory import keep_heap
    from unetkit.infer.folder import predict_cases, predict_files
    from unetkit.infer.study import holds_study
    from unetkit.progress import case_bar

    keep_heap()
    # Of its own cases the run knows where their maps are; of others it must be told.
    single = args.split is not None and not holds_study(Path(args.run))
    own = read_recipe(args.run).data.previous if single else None
    previous = args.previous or args.data.previous or own
    predictor = unetkit.load(args.run, device=args.device, previous=previous, **of_study(args), **given(args.infer))
    options: dict[str, Any] = {
        "overwrite": args.overwrite,
        "probabilities": args.probabilities,
        "progress": case_bar("predicting"),
    }
    if args.input is not None:
        summary = predict_files(predictor, Path(args.input), Path(args.output), **options)
    else:
        from unetkit.evaluation import cases_of_run

        cases = cases_of_run(Path(args.run), str(args.split), given(args.data))
        summary = predict_cases(predictor, cases, Path(args.output), **options)
    tell([_of_case(f["case"], f["error"]) for f in summary["failed"]])
    counts = {"predicted": "done", "there already": "skipped", "failed": "failed"}
    line = ", ".join(f"{len(summary[key])} {word}" for word, key in counts.items())
    return {**summary, "exit_code": 2 if summary["failed"] else 0}, f"{line} -> {args.output}"


def run_evaluate(words: list[str]) -> Outcome:
    """Score label maps against label files or a data set, or a run on a split of its data; failures give code 2."""
    from unetkit.cli.arguments import EvaluateWords, given, of_study, read_words

    args = read_words(words, EvaluateWords)
    from unetkit.data.formats.files import remove_empty, require_writable
    from unetkit.engine.memory import keep_heap
    from unetkit.evaluation import evaluate_dataset, evaluate_folders, evaluate_run, write_evaluation
    from unetkit.progress import case_bar

    if args.output:  # before any work; the folder itself is made when there is something to put in
        remove_empty(require_writable(Path(args.output)))
    progress = case_bar("scoring")
    if args.run is not None:
        keep_heap()
        settings = {name: given(getattr(args, name)) for name in ("data", "infer", "evaluate")}
        settings["study"] = of_study(args)
        if args.infer.depth == "all":
            return _evaluate_depths(args, settings, progress)
        evaluation = evaluate_run(Path(args.run), args.split or "test", settings, device=args.device, progress=progress)
    else:
        told: dict[str, Any] = {"data": args.data, "rules": args.evaluate, "progress": progress}
        if args.references is not None:
            evaluation = evaluate_folders(Path(str(args.predictions)), Path(args.references), **told)
        else:
            evaluation = evaluate_dataset(Path(str(args.predictions)), args.split, **told)
    written = write_evaluation(evaluation, Path(args.output)) if args.output else None
    where = f"\nwritten to {written}" if written else ""
    document = {**evaluation.to_json(), "output": str(written) if written else None}
    tell([_of_case(case, error) for case, error in evaluation.failures.items()])
    return {**document, "exit_code": 2 if evaluation.failures else 0}, evaluation.table() + where


def _evaluate_depths(args: EvaluateWords, settings: dict[str, dict[str, Any]], progress: Progress) -> Outcome:
    """Score and time a network at each of its depths; `output=` receives an evaluation of each."""
    from unetkit.cli import tables
    from unetkit.evaluation import write_evaluation
    from unetkit.evaluation.depths import depth_rows, evaluate_depths

    depths = evaluate_depths(Path(str(args.run)), args.split or "test", settings, device=args.device, progress=progress)
    rows = depth_rows(depths)
    if args.output:
        for d in depths:
            write_evaluation(d.evaluation, Path(args.output) / f"depth_{d.depth}")
    failures = {case: error for d in depths for case, error in d.evaluation.failures.items()}
    tell([_of_case(case, error) for case, error in failures.items()])
    return {"depths": rows, "output": args.output, "exit_code": 2 if failures else 0}, tables.as_text(rows)


def _of_case(case: str, error: str) -> str:
    """Name the case in front of what is wrong with it, once."""
    return error if error.startswith(f"case {case}:") else f"case {case}: {error}"


def run_bench(words: list[str]) -> Outcome:
    """Run a benchmark and go on with it, or tell what networks cost."""
    from unetkit.cli.benching import bench

    return bench(words)
