"""Results → reports/performance/README.md: every claim of speed and memory, what was wanted, how to measure it again.

python benchmarks/performance_report.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from hardware import RESULTS

from odeval.atomic import read_json, write_text

REPORT = RESULTS.parent.parent / "reports" / "performance" / "README.md"
COMMANDS = {
    "sampling": "python benchmarks/sampling.py --rounds 3",
    "vllm_sampling": ".venv-vllm/bin/python benchmarks/vllm_sampling.py",
    "loss": "peers/bin/python benchmarks/loss.py --rounds 5",
    "scoring": "python benchmarks/scoring.py",
    "training": "peers/bin/python benchmarks/training.py",
    "analysis": "python benchmarks/analysis.py --rounds 3",
    "store": "python benchmarks/store.py --rounds 3",
    "scale": "python benchmarks/scale.py",
    "growth": "python benchmarks/growth.py",
    "executor": "python benchmarks/executor.py",
}  # peers: an environment with torch==2.13.0, trl==1.16.0, liger-kernel and this checkout
_CHUNKED = {"forward_kl": 1.8, "reverse_kl": 1.8, "jsd": 2.5, "blend": 3.5}


@dataclass(frozen=True, slots=True)
class Claim:
    """One number, and what was wanted of it.

    Attributes:
        what: In words, with the setting.
        value: Measured.
        shown: The value with its spread over rounds, where rounds were kept.
        least: Wanted at least; None for no wish.
        most: Wanted at most.
        source: Name of the results.
    """

    what: str
    value: float
    shown: str
    source: str
    least: float | None = None
    most: float | None = None

    def met(self) -> bool | None:
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def wanted(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"


def newest(name: str, results: Path = RESULTS) -> Any:
    """The most recent results of a benchmark, whatever the hardware."""
    return read_json(max(results.glob(f"{name}_*.json"), key=lambda path: path.stem.rsplit("_", 1)[1]))


def spread(item: dict[str, float], digits: int = 2) -> str:
    return f"{item['median']:.{digits}f} ({item['min']:.{digits}f}–{item['max']:.{digits}f})"


def sampling(results: Path) -> Iterator[Claim]:
    least = {(64, "to the limit"): 1.5, (256, "to the limit"): 3.0, (256, "with ends"): 4.0}
    for row in newest("sampling", results)["rows"]:
        key = row["prompt_tokens"], row["completions"]
        of = "" if row["prompts"] == 1 else f"{row['prompts']} prompts of "
        each = 64 // row["prompts"]
        what = (
            f"tokens per CPU second over `generate(num_return_sequences={each})`, {of}{key[0]} prompt tokens, {key[1]}"
        )
        told = f"{row['ratio']:.2f} ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})"
        yield Claim(what, row["ratio"], told, "sampling", least.get(key, 1.0))


def vllm(results: Path) -> Iterator[Claim]:
    for row in newest("vllm_sampling", results)["rows"]:
        what = (
            f"tokens per CPU second over vLLM's `generate` on a CPU, {row['prompt_tokens']} prompt tokens, to the limit"
        )
        yield Claim(what, row["ratio"]["vLLM"], f"{row['ratio']['vLLM']:.2f}", "vllm_sampling", 1.0)


def loss(results: Path) -> Iterator[Claim]:
    found = newest("loss", results)
    for row in found["rows"]:
        where = f"{row['kind']}, vocabulary {row['vocab']:,}, {row['tokens']} tokens, width {row['hidden']}"
        own = row["odeval_over_products"]
        yield Claim(
            f"fused divergence over its four bare products, {where}", own["median"], spread(own), "loss", most=1.25
        )
        for peer, text, least in (
            ("trl_chunked", "TRL 1.16's chunked kernel over it", _CHUNKED[row["kind"]]),
            ("liger_compiled", "compiled Liger over it", 1.3),
            ("trl_gkd", "TRL's GKD loss over it", None),
        ):
            if ratio := row["peer_over_odeval"].get(peer):
                yield Claim(f"{text}, {where}", ratio["median"], spread(ratio), "loss", least)
    peaks = {(row["peer"], row["vocab"], row["tokens"]): row["peak_mib"] for row in found["memory"]}
    for vocab in sorted({vocab for _, vocab, _ in peaks}):
        grown = peaks["odeval", vocab, 4096] / peaks["odeval", vocab, 512]
        what = f"peak memory at 4,096 tokens over that at 512, JSD, vocabulary {vocab:,}"
        yield Claim(what, grown, f"{grown:.3f}", "loss", most=1.05)
    for peer, name in (("trl_gkd", "TRL's GKD loss"), ("trl_chunked", "TRL's chunked kernel")):
        over = peaks[peer, 32000, 2048] / peaks["odeval", 32000, 2048]
        least = 8.0 if peer == "trl_gkd" else None
        yield Claim(f"peak memory of {name} over it, JSD at 2,048 tokens", over, f"{over:.1f}", "loss", least)


def others(results: Path) -> Iterator[Claim]:
    for row in newest("scoring", results)["rows"]:
        ratio = row["ratio"]["odeval"]
        what = f"scoring, branch points included, over two plain passes with log_softmax, vocabulary {row['vocab']:,}"
        yield Claim(what, ratio, f"{ratio:.2f}", "scoring")
    training = newest("training", results)
    ours, theirs = training["trainers"]["odkd"], training["trainers"]["trl"]
    speed, memory = ours["tokens_per_second"] / theirs["tokens_per_second"], theirs["bytes"] / ours["bytes"]
    yield Claim("odkd's tokens per second over `trl.DistillationTrainer`'s", speed, f"{speed:.2f}", "training", 1.0)
    yield Claim("`trl.DistillationTrainer`'s peak memory over odkd's", memory, f"{memory:.2f}", "training", 1.0)
    for row in training["diagnostics"]:
        share = 100 * row["share"]
        yield Claim(f"diagnostics in % of an update, {row['case']}", share, f"{share:.1f}", "training", most=5.0)
    for row in newest("analysis", results)["rows"]:
        own = row["seconds"]
        what = f"seconds: {row['what']}, {row['prompts']:,} prompts"
        yield Claim(what, own["median"], f"{own['median']:.2f} (least {own['min']:.2f})", "analysis")
    spread_over = newest("executor", results)
    limit = spread_over["setting"]["limit"]
    rows = {(row["samples"], row["way"]): row for row in spread_over["rows"]}
    for samples in sorted({samples for samples, _ in rows}):
        here, spread_out = (rows[samples, way]["all_sample_seconds"] for way in ("local", "ray, 2 workers"))
        ratios = sorted(a / b for a, b in zip(here, spread_out, strict=True))
        what = f"seconds to sample {samples} completions of {limit} prompts here, over those with two Ray workers"
        told = f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        yield Claim(what, median(ratios), told, "executor")
    store = {row["way"]: row for row in newest("store", results)["rows"]}
    for way, row in store.items():
        what = f"token tables as {way}: bytes a token; seconds to write and to read"
        took = " · ".join(spread(row[f"{kind}_seconds"]) for kind in ("write", "read"))
        yield Claim(what, row["bytes_per_token"], f"{row['bytes_per_token']:.1f}; {took}", "store")


def claims(results: Path = RESULTS) -> list[Claim]:
    return [*sampling(results), *vllm(results), *loss(results), *others(results)]


def headline(results: Path = RESULTS) -> str:
    judged = [claim for claim in claims(results) if claim.met() is not None]
    missed = [claim for claim in judged if not claim.met()]
    return f"{len(judged) - len(missed)} of {len(judged)} targets hold"


def report(results: Path = RESULTS) -> str:
    lines = [
        "# Speed and memory: what is claimed, what was wanted, what was measured", "",
        "Generated by `benchmarks/performance_report.py` from `benchmarks/results/`; do not edit. Peers ran in the "
        "same process, in turns; a ratio is a median over rounds, with least and largest where they are kept. "
        "One CPU thread of a shared machine with two cores, where nothing else is said; no GPU was at hand.", "",
        f"**{headline(results)}.** Missed ones are marked.", "",
        "| what | measured | wanted | | made by |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for claim in claims(results):
        mark = {None: "", True: "✓", False: "✕ missed"}[claim.met()]
        lines.append(f"| {claim.what} | {claim.shown} | {claim.wanted()} | {mark} | `{COMMANDS[claim.source]}` |")
    growth = newest("growth", results)
    sizes = sorted({row["prompts"] for row in growth["rows"]})
    head = [f"{size:,} prompts" for size in sizes]
    lines += ["", "## Growth of the stages", "",
              f"CPU seconds and peak MB of a process of its own, its start included; graph_paths, "
              f"{growth['setting']['samples']} samples a prompt; `{COMMANDS['growth']}`.", "",
              f"| stage | {' | '.join(head)} |", "| --- " * (len(head) + 1) + "|"]  # fmt: skip
    for stage in dict.fromkeys(row["stage"] for row in growth["rows"]):
        own = {row["prompts"]: row for row in growth["rows"] if row["stage"] == stage}
        cells = [f"{own[size]['cpu_seconds']:.1f} s, {own[size]['peak_mb']:.0f} MB" for size in sizes]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    scale = newest("scale", results)
    lines += ["", "## Growth of a comparison of scored runs", "",
              f"Synthetic, {scale['samples']} samples of {scale['tokens']} tokens a prompt; `{COMMANDS['scale']}`.", "",
              "| prompts | scored tokens | files, MB | token tables: s, peak MB | whole comparison: s, peak MB |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in scale["runs"]:
        lines.append(
            f"| {row['prompts']:,} | {row['scored_tokens']:,} | {row['files_mb']:,} | {row['tokens_seconds']}, "
            f"{row['tokens_peak_mb']} | {row['compare_seconds']}, {row['compare_peak_mb']} |"
        )
    return "\n".join([*lines, ""])


def write(results: Path = RESULTS, path: Path = REPORT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, report(results))
    return path


if __name__ == "__main__":
    print(write())
