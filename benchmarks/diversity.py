"""Self-BLEU beside NLTK, sacrebleu and fast-bleu, Vendi score beside vendi-score: one process, one thread, in turns.

    python -m venv scratch && scratch/bin/pip install . nltk sacrebleu fast-bleu vendi-score
    scratch/bin/python benchmarks/diversity.py             # about 8 minutes on one core
    scratch/bin/python benchmarks/diversity.py --rounds 1 --samples 32

Completions are synthetic: tokens of a Zipf law ("varied"), or four of them with a twentieth of the tokens redrawn
("similar", as from a collapsed model). Times are of CPU; a ratio is peer / odeval within one round, given as median and
range over rounds. A peer that would take minutes scores some completions only and is scaled to all; the row says so.
Peers that are not installed are left out and named. vendi-score's own n-gram function needs torch and `datasets` to be
imported, so its recipe (CountVectorizer, normalised Gram matrices, their mean, `score_K`) is followed here.
Writes results/diversity_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import argparse
import importlib.metadata
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from hardware import hardware, result_path

from odeval import __version__
from odeval.atomic import write_json
from odeval.metrics.ngrams import take_apart
from odeval.metrics.textdiversity import compression_ratio, self_bleu, vendi
from odeval.provenance import provenance

VOCABULARY = 5000
Completions = list[np.ndarray]
Scores = tuple[float, int]  # the mean score, and of how many completions


def varied(generator: np.random.Generator, samples: int, length: int) -> Completions:
    shares = 1 / np.arange(1, VOCABULARY + 1) ** 1.1
    shares /= shares.sum()
    lengths = generator.integers(max(1, int(0.7 * length)), length + 1, samples)
    return [generator.choice(VOCABULARY, size=int(size), p=shares) for size in lengths]


def similar(generator: np.random.Generator, samples: int, length: int) -> Completions:
    stems = varied(generator, 4, length)
    found = [stems[i % 4].copy() for i in range(samples)]
    for tokens in found:
        redrawn = generator.random(len(tokens)) < 0.05
        tokens[redrawn] = generator.integers(0, VOCABULARY, int(redrawn.sum()))
    return found


def ours(texts: Completions, most: int) -> Scores:
    return self_bleu(take_apart(texts)), len(texts)


def by_nltk(texts: Completions, most: int) -> Scores:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    lists, smooth = [list(map(int, text)) for text in texts], SmoothingFunction().method1
    scores = [
        sentence_bleu(lists[:i] + lists[i + 1 :], lists[i], smoothing_function=smooth)
        for i in range(min(most, len(lists)))
    ]
    return float(np.mean(scores)), len(scores)


def by_sacrebleu(texts: Completions, most: int) -> Scores:
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize="none", smooth_method="floor", effective_order=False)
    lines = [" ".join(map(str, text)) for text in texts]
    scores = [
        metric.sentence_score(lines[i], lines[:i] + lines[i + 1 :]).score / 100 for i in range(min(most, len(lines)))
    ]
    return float(np.mean(scores)), len(scores)


def by_fast_bleu(texts: Completions, most: int) -> Scores:
    from fast_bleu import SelfBLEU

    scores = SelfBLEU([list(map(str, text)) for text in texts], {"bleu": (0.25,) * 4}).get_score()["bleu"]
    return float(np.mean(scores)), len(scores)


def our_vendi(texts: Completions, most: int) -> Scores:
    return vendi(take_apart(texts))[0], len(texts)


def by_vendi_score(texts: Completions, most: int) -> Scores:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize
    from vendi_score import vendi as peer

    lines = [" ".join(map(str, text)) for text in texts]
    kernels = []
    for n in (1, 2, 3, 4):
        counts = CountVectorizer(tokenizer=str.split, token_pattern=None, ngram_range=(n, n)).fit_transform(lines)
        features = normalize(counts.astype(np.float64))
        kernels.append((features @ features.T).toarray())
    return float(peer.score_K(np.mean(kernels, axis=0))), len(texts)


SELF_BLEU = {"odeval": ours, "nltk": by_nltk, "sacrebleu": by_sacrebleu, "fast-bleu": by_fast_bleu}
VENDI = {"odeval": our_vendi, "vendi-score": by_vendi_score}


def timed(function: Callable[[Completions, int], Scores], texts: Completions, most: int) -> tuple[float, float, int]:
    """CPU seconds for all completions, the score, and how many completions were scored."""
    start = time.process_time()
    score, scored = function(texts, most)
    return (time.process_time() - start) * len(texts) / scored, score, scored


def installed(peers: dict[str, Any]) -> dict[str, str]:
    found = {"odeval": __version__}
    for name in peers.keys() - found.keys():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed: left out")
    return found


def race(
    measure: str, peers: dict[str, Any], case: str, make: Any, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time every installed peer in turns; one row a number of samples and peer."""
    rows = []
    names = [name for name in peers if name in installed(peers)]
    for samples in options.samples:
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in names}
        small = make(np.random.default_rng(0), 3, 8)
        for name in names:  # the first call of each loads code
            peers[name](small, 3)
        for seed in range(options.rounds):
            texts = make(np.random.default_rng(seed), samples, options.length)
            for name in names:
                found[name].append(timed(peers[name], texts, options.most))
        for name in names:
            ratios = [peer[0] / own[0] for peer, own in zip(found[name], found["odeval"], strict=True)]
            whole = found[name][0][2] == samples
            row = {
                "measure": measure, "completions": case, "samples": samples, "tool": name,
                "cpu_seconds": statistics.median(item[0] for item in found[name]),
                "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
                "scored": found[name][0][2],
                "largest_difference": max(abs(a[1] - b[1]) for a, b in zip(found[name], found["odeval"], strict=True))
                if whole else None,
            }  # fmt: skip
            rows.append(row)
            spread = f"{row['ratio']['median']:8.1f} ({row['ratio']['low']:.1f} – {row['ratio']['high']:.1f})"
            note = "" if whole else f"  scaled from {row['scored']} completions"
            print(f"{measure:9} {case:8} {samples:5} {name:12} {row['cpu_seconds']:9.4f} s {spread}{note}", flush=True)
    return rows


def budget(prompts: int, samples: int, length: int, make: Any) -> dict[str, Any]:
    """Seconds of each of our measures for one run of so many prompts, from a tenth of them."""
    part = max(1, prompts // 10)
    spent = dict.fromkeys(("n-grams", "self-BLEU", "Vendi", "compression"), 0.0)
    for seed in range(part):
        texts = make(np.random.default_rng(seed), samples, length)
        as_bytes = [" ".join(map(str, text)).encode() for text in texts]
        marks = [time.process_time()]
        apart = take_apart(texts)
        marks.append(time.process_time())
        self_bleu(apart)
        marks.append(time.process_time())
        vendi(apart)
        marks.append(time.process_time())
        compression_ratio(as_bytes)
        marks.append(time.process_time())
        for name, (start, end) in zip(spent, pairwise(marks), strict=True):
            spent[name] += (end - start) * prompts / part
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
    print(f"{prompts} prompts x {samples} x {length} tokens, {make.__name__}: {shown}")
    return {
        "prompts": prompts, "measured_prompts": part, "samples": samples, "tokens": length,
        "completions": make.__name__, "cpu_seconds": spent,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 256], help="completions of a prompt")
    parser.add_argument("--length", type=int, default=200, help="tokens of the longest completion")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turns")
    parser.add_argument("--most", type=int, default=32, help="completions that NLTK and sacrebleu score, then scaled")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    logging.disable(logging.WARNING)
    rows = []
    for case, make in (("varied", varied), ("similar", similar)):
        rows += race("self-BLEU", SELF_BLEU, case, make, options)
        rows += race("Vendi", VENDI, case, make, options)
    budgets = [budget(200, 64, 10, varied), budget(200, 256, 200, varied), budget(200, 256, 200, similar)]
    path = result_path("diversity")
    write_json(
        path,
        {
            "what": "CPU seconds for one prompt, and ratios peer / odeval: median and range over rounds",
            "setting": {**vars(options), "vocabulary": VOCABULARY, "threads": 1, "hardware": hardware()},
            "peers": installed({**SELF_BLEU, **VENDI}),
            "rows": rows,
            "budgets": budgets,
            "provenance": provenance(),
        },
    )
    print(path)


if __name__ == "__main__":
    main()
