"""The `odeval` command: the index of its verbs, and the boundary that turns every outcome into an exit code.

Exit codes: 0 pass · 1 a rule failed · 2 usage or configuration · 3 inconclusive (with --strict) · 4 could not judge.
Results go to stdout; progress and errors go to stderr.
"""

from __future__ import annotations

import keyword
import os
import sys
import traceback

from cyclopts import App, CycloptsError, Parameter

from odeval import __version__
from odeval.errors import OdevalError

_RUN, _JUDGE, _INFO = "odeval.commands.run", "odeval.commands.judge", "odeval.commands.info"
_IMPORT, _EXPORT = "odeval.commands.importing", "odeval.commands.exporting"
_PLOT = "odeval.commands.plotting"
VERBS = {  # loaded when called, so that `odeval --help` loads nothing heavy
    "demo": (_RUN, "Audit the embedded students against the embedded teacher, offline"),
    "audit": (_RUN, "Two models and a task: sample, grade, score, compare, gate and report, resumable"),
    "sample": (_RUN, "Draw n completions per prompt into a run folder"),
    "grade": (_RUN, "Grade a run's completions; never samples"),
    "score": (_RUN, "Score teacher and student at every token of both runs"),
    "compare": (_JUDGE, "Compare runs prompt by prompt, over the whole pass@k curve"),
    "gate": (_JUDGE, "Judge a comparison by rules; the exit code is the verdict"),
    "plan": (_JUDGE, "Tell what a gate will see, before the samples are paid for"),
    "report": (_JUDGE, "Render a comparison and its verdict as one self-contained page"),
    "plot": (_PLOT, "Draw one figure to SVG, PNG or PDF, with its numbers as CSV beside it"),
    "show": ("odeval.commands.showing", "List the prompts a candidate lost, and the branches it dropped"),
    "import": (_IMPORT, "Read another tool's log into a run folder; never guesses what is right"),
    "export": (_EXPORT, "Write a run or a verdict for other tools: counts, model card, Every Eval Ever, …"),
    "doctor": ("odeval.commands.doctor", "Check that an engine samples honestly; exit 0, 1, or 4 if it cannot be told"),
    "tasks": (_INFO, "List the built-in tasks and the graders"),
    "env": (_INFO, "Print versions, for bug reports"),
}

_MODEL_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")  # of the extra [hf]

app = App(
    name="odeval",
    help="Did this distilled model buy pass@1 by giving up the rest of the curve?",
    help_format="plaintext",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
for _place, (_verb, (_module, _help)) in enumerate(VERBS.items()):
    _function = f"{_verb}_" if keyword.iskeyword(_verb) else _verb
    app.command(f"{_module}:{_function}", name=_verb, help=_help, sort_key=_place)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and turn every outcome into an exit code; an unexpected exception is 4, never 1."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # torch's idle threads would spin, at twice the cost of the work
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return int(result or 0)
    except CycloptsError as error:
        print(f"odeval: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OdevalError as error:
        print(f"odeval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("odeval: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _MODEL_LIBRARIES:
            print(f"odeval: this runs models and needs {error.name}: pip install 'odeval[hf]'", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("odeval: this is a bug in odeval, not a verdict; please report the lines above", file=sys.stderr)
        return 4


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
