"""Made-up numbers for what a comparison tells about branch points, coverage and diversity: one shape, any figure."""

from __future__ import annotations

import math
from typing import Any


def with_branch_points(comparison: dict[str, Any], text: str = "take the {} road. ") -> dict[str, Any]:
    """Fill in every part that rests on texts and token tables.

    Args:
        comparison: Changed in place.
        text: What completions are made of.
    """
    for place, pair in enumerate(comparison["pairs"]):
        pair["coverage"] = _coverage(comparison, place)
        pair["diversity"] = _diversity(comparison, place)
        teacher = pair["role"] == "teacher"
        pair["branches"] = _branches(comparison, text) if teacher else None
        pair["completion"] = _completion(comparison, text) if teacher else None
    return comparison


def _described(label: str, unit: str = "share", direction: str = "higher") -> dict[str, Any]:
    return {"label": label, "unit": unit, "direction": direction, "source": "ours"}


def _number(value: float, half: float = 0.031) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": 100,
        "caution": "",
        "se": half / 2,
        "degrees": 99,
    }


def _columns(values: list[float], half: float = 0.031) -> dict[str, Any]:
    rows = [_number(value, half) for value in values]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _coverage(comparison: dict[str, Any], place: int) -> dict[str, Any]:
    ks = [1, 2, 4, 8]
    ceiling = [0.613 + 0.083 * j for j in range(len(ks))]
    recall = [value * (0.871 - 0.07 * (place % 4)) for value in ceiling]
    gap = [a - b for a, b in zip(ceiling, recall, strict=True)]
    views = [
        {
            "by": "answer", "draws": draws, "k": ks,
            "recall": {**_described("teacher's outputs that the student reaches"), **_columns(recall)},
            "ceiling": {**_described("teacher's outputs that the teacher reaches again"), **_columns(ceiling)},
            "gap": {**_described("coverage gap", direction="lower"), **_columns(gap)},
            "grounding": {**_described("student's outputs that the teacher reaches"), **_columns(recall)},
        }
        for draws in ("k completions", "k right completions")
    ]  # fmt: skip
    names = comparison["prompt_ids"][:2]
    listed = [
        {
            "prompt_id": name,
            "name": f"right {j}",
            "count": 7 + j,
            "n": 16,
            "candidate_n": 16,
            "upper": 0.171,
            "p": 0.0021,
        }
        for j, name in enumerate(names)
    ]
    modes = {"count": 31, "prompts": 23, "beyond_chance": 5, "listed": listed}
    distinct = {**_described("different answers", "answers", "neutral"), "k": ks}
    distinct |= {side: _columns([1.13 + j for j in range(4)], 0.21) for side in ("baseline", "candidate", "difference")}
    return {"scope": "population", "question": "would other prompts tell the same?", "note": "", "views": views,
            "distinct": distinct, "solutions": None, "lost": modes, "gained": {**modes, "count": 3}}  # fmt: skip


def _diversity(comparison: dict[str, Any], place: int) -> dict[str, Any]:
    def three(label: str, unit: str, value: float, change: float) -> dict[str, Any]:
        ends = {"baseline": _number(value), "candidate": _number(value + change), "difference": _number(change)}
        return {**_described(label, unit, "neutral"), **ends}

    narrowing, fewer, more = -0.217 - 0.05 * place, -0.311, 0.123
    parts = {
        "whole": ("change of different answers", narrowing + fewer + more),
        "quality_control": ("through how many are right", fewer + more),
        "fewer_wrong": ("fewer wrong answers", fewer),
        "more_right": ("more right completions", more),
        "narrowing": ("narrowing among right answers", narrowing),
    }
    split = {
        key: {**_described(label, "answers", "neutral"), **_number(value)} for key, (label, value) in parts.items()
    }
    among = {**_described("different right answers", "answers"), "k": [1, 2, 4]}
    among |= {side: _columns([1.0, 1.61, 2.27 - 0.2 * place]) for side in ("baseline", "candidate", "difference")}
    answers = {
        key: three(label, unit, 2.31, -0.41)
        for key, label, unit in (
            ("distinct", "different answers", "answers"), ("entropy", "answer entropy", "nats"),
            ("entropy_miller_madow", "answer entropy, Miller–Madow", "nats"),
            ("entropy_chao_shen", "answer entropy, Chao–Shen", "nats"),
        )
    }  # fmt: skip
    metrics = {
        key: three(key, "", 0.531, -0.0713) for key in ("ead", "self_bleu", "vendi", "vendi_2", "compression_ratio")
    }
    text = {"gated": False, "rule": "4 right completions of each prompt on both sides", "prompts": 51, "of": 60,
            "reads": "tokens", "vocabulary": 64, "metrics": metrics}  # fmt: skip
    matched = {"rule": "as many right completions from both", "prompts": 53, "of": 60}
    return {"scope": "population", "question": "would other prompts tell the same?", "note": "", "matched": matched,
            "answers": answers, "among_right": among, "split": split, "text": text}  # fmt: skip


def _branches(comparison: dict[str, Any], text: str) -> dict[str, Any]:
    listed = []
    for j, prompt_id in enumerate(comparison["prompt_ids"][:14]):
        listed.append({
            "prompt_id": prompt_id, "prompt": f"prompt {j} {text}", "context": (text * 12)[-300:], "cut": True,
            "position": 17 + j, "branch": text.format(j)[:9], "token_id": 40 + j, "teacher_prob": 0.43 - 0.02 * j,
            "student_prob": 0.0071 / (1 + 3 * j), "teacher_entropy": 1.31, "student_entropy": 0.117, "completions": 16,
            "visits": 14, "taken": 6, "graded": 6, "correct": max(6 - j, 0), "lost": 0.363 - 0.02 * j,
            "lost_mass": 0.371, "sample_id": 3,
        })  # fmt: skip
    tokens = [
        {"branch": row["branch"], "token_id": row["token_id"], "contexts": 9 - j, "prompts": 7 - j, "visits": 61,
         "taken": 27, "graded": 26, "correct": 19, "teacher_prob": 0.311, "student_prob": 0.0043, "lost": 0.0213}
        for j, row in enumerate(listed[:4])
    ]  # fmt: skip
    return {"question": "which continuations of the teacher can the student no longer take?",
            "rule": "teacher >= 0.1, student < 0.01", "trajectory": "teacher", "teacher_least": 0.1,
            "student_most": 0.01, "floor": 0.3, "contexts": 213, "branches": 231, "prompts": 57, "listed": listed,
            "tokens": tokens}  # fmt: skip


def _completion(comparison: dict[str, Any], text: str) -> dict[str, Any]:
    words = [f"{word} " for word in (text.format("long") * 12).split(" ")][:90]
    words[4:5] = ["\n"]
    count = len(words)
    teacher = [round(abs(1.7 * math.sin(1.7 * j) ** 5), 4) for j in range(count)]
    student = [round(value * (0.13 if j % 3 else 0.9), 4) for j, value in enumerate(teacher)]
    branch = [value >= 0.8 for value in teacher]
    return {
        "rule": "the completion of the median prompt", "trajectory": "teacher",
        "prompt_id": comparison["prompt_ids"][0], "prompt": "where to?", "sample_id": 2, "correct": True,
        "threshold": 0.8,
        "length": count + 11, "pieces": words,
        "teacher_entropy": teacher, "student_entropy": student, "teacher_logprob": [-0.31] * count,
        "student_logprob": [-1.13] * count, "branch": branch,
        "closed": [open_ and own < 0.8 for open_, own in zip(branch, student, strict=True)],
        "dropped": [{"at": 5, "branch": "other", "teacher_prob": 0.31, "student_prob": 0.0043}],
    }  # fmt: skip
