"""The command line: `unetkit VERB key=value ...`.

Rooms are imported inside the verbs, so that help, lists and refusals answer at once.
Exit codes: 0 done, 1 a bug, 2 the user's input, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from unetkit.errors import RecipeError, UnetkitError, nearest

VERBS = {
    "list": "models, recipes, datasets or benches, filtered: `unetkit list models family=cnn dims=3`",
    "show": "a recipe with the origin of each value, a run, or a model's card and picture: "
    "`unetkit show model=unet draw=unet.svg`",
    "inspect": "what a data folder is and what is wrong with it: `unetkit inspect data.root=FOLDER`",
    "plan": "the plan for a data set and a model, with reasons: `unetkit plan data.root=FOLDER`",
    "train": "train, validate on whole cases, report: `unetkit train recipe=quickstart train.epochs=50`",
    "predict": "files or folders to label maps: `unetkit predict run=runs/x input=ct.nii.gz output=out`",
    "evaluate": "metrics per case and class: `unetkit evaluate predictions=FOLDER references=FOLDER`",
    "bench": "many models on many data sets: `unetkit bench recipe=FILE.yaml`; what they cost: `unetkit bench cost`",
}


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see `unetkit --help`")


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    parser = _Parser(
        prog="unetkit",
        usage="unetkit VERB [key=value ...] [--json]",
        description=f"Segment medical images with the U-Net family.\n\nverbs:\n{verbs}",
        epilog="Every key of a recipe can be given: `unetkit show` prints them all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    # No subparsers: words are checked by the schemas, which know the nearest key, and help comes from VERBS.
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", metavar="key=value", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line of stdout")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("-h", "--help", action="store_true", help="print this help")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; `argv` are the words after the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Looked for by hand: also a refusal of the words themselves has to come as JSON.
    as_json = "--json" in words
    try:
        # What libraries print must not stand before the document on stdout.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            document, text = _run(words)
    except UnetkitError as error:
        return _refuse(error, as_json)
    except KeyboardInterrupt:
        print("unetkit: stopped", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": "stopped with Ctrl-C", "kind": "KeyboardInterrupt"}))
        return 130
    try:
        if text is not None:
            print(json.dumps(document, default=str) if as_json else text)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has gone; say nothing more, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(document.get("exit_code", 0)) if isinstance(document, dict) else 0


def _run(words: list[str]) -> tuple[Any, str | None]:
    # Words that stand behind an option count as unknown to argparse; they come back in their order.
    args, extra = _parser().parse_known_args(words)
    if args.version:
        from importlib.metadata import version

        return {"version": version("unetkit")}, version("unetkit")
    if args.help and args.verb in VERBS:
        return _help_of(args.verb)
    if args.help or args.verb is None:
        return {"verbs": VERBS}, _parser().format_help()
    if args.verb not in VERBS:
        raise RecipeError(f"there is no verb '{args.verb}'{nearest(args.verb, VERBS)}; there are {', '.join(VERBS)}")
    from unetkit.cli import verbs

    outcome: verbs.Outcome = getattr(verbs, f"run_{args.verb}")([*args.words, *extra])
    return outcome


def tell(faults: Iterable[str]) -> None:
    """Say on stderr what is at fault, a line each."""
    for fault in faults:
        print(f"unetkit: {fault}", file=sys.stderr)


def _help_of(verb: str) -> tuple[Any, str]:
    from unetkit.cli.arguments import EvaluateWords, ListWords, PredictWords, described
    from unetkit.recipe.schema import Section

    if verb == "bench":
        from unetkit.cli.benching import help_text

        return {
            "verb": verb,
            "help": VERBS[verb],
            "words": help_text(),
        }, f"unetkit {verb}: {VERBS[verb]}\n\n{help_text()}"
    schemas: dict[str, type[Section]] = {"list": ListWords, "predict": PredictWords, "evaluate": EvaluateWords}
    takes = described(schemas[verb]) if verb in schemas else "  the keys of a recipe; `unetkit show` prints them all"
    return {"verb": verb, "help": VERBS[verb], "words": takes}, f"unetkit {verb}: {VERBS[verb]}\n\nwords:\n{takes}"


def _refuse(error: UnetkitError, as_json: bool) -> int:
    faults = error.faults if isinstance(error, RecipeError) and error.faults else (str(error),)
    tell(faults)
    if as_json:
        print(json.dumps({"error": str(error), "kind": type(error).__name__, "faults": list(faults)}))
    return 2
