"""Text measures against slow twins and against NLTK."""

from __future__ import annotations

import gzip
import math
from collections import Counter

import numpy as np
import pytest

from odeval.metrics.ngrams import LONGEST, _grams, take_apart
from odeval.metrics.textdiversity import compression_ratio, ead, self_bleu, vendi

# Computed by NLTK 3.10.4, with method1 = SmoothingFunction().method1, as the mean over i of
# sentence_bleu(texts[:i] + texts[i + 1:], texts[i], smoothing_function=method1)
NLTK = {
    "varied": (
        [[1, 0, 4, 5, 7, 8, 5], [4, 1, 0, 5, 5, 6, 6, 4, 4], [4, 2, 8, 7, 6], [2, 4, 6, 2, 8, 4, 1, 8]],
        0.08825366892730871,
    ),
    "similar": (
        [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [1, 2, 3, 9, 5, 6, 7], [2, 3, 4, 5, 6]],
        0.7072887317654402,
    ),
    "copies": ([[4, 4, 2, 1], [4, 4, 2, 1], [7, 8, 4, 4, 2]], 0.7553049316157497),
    "short": ([[3], [3, 1], [1, 3, 3], [2]], 0.12269397437212201),
    "an empty one": ([[], [1, 2, 3, 4, 5], [1, 2, 3, 4]], 0.48251369601594235),
    "repetitive": ([[1, 1, 1, 1, 1, 2], [1, 1, 2, 2, 1, 1, 1], [2, 2, 2, 2]], 0.2309439210050724),
}  # fmt: skip


def arrays(texts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(text, dtype=np.int32) for text in texts]


def grams(text: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def random_texts(seed: int) -> list[list[int]]:
    """From near copies to noise, short and long, with empty ones and copies among them."""
    generator = np.random.default_rng(seed)
    kinds, longest = int(generator.choice([2, 4, 50])), int(generator.choice([3, 7, 25]))
    texts = [generator.integers(0, kinds, generator.integers(0, longest + 1)).tolist() for _ in range(9)]
    texts += [list(texts[0]), [*texts[1], 0]]
    return texts[: generator.integers(2, 12)]


# Slow twins, from the papers.


def slow_self_bleu(texts: list[list[int]]) -> float:
    scores = []
    for i, own in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        precisions = []
        for n in (1, 2, 3, 4):
            mine = grams(own, n)
            matches = sum(min(count, max(grams(other, n)[gram] for other in others)) for gram, count in mine.items())
            precisions.append((matches, max(1, sum(mine.values()))))
        if precisions[0][0] == 0:
            scores.append(0.0)
            continue
        closest = min((abs(len(other) - len(own)), len(other)) for other in others)[1]
        penalty = 1.0 if len(own) > closest else math.exp(1 - closest / len(own))
        scores.append(penalty * math.prod(((m or 0.1) / total) ** 0.25 for m, total in precisions))
    return float(np.mean(scores))


def slow_vendi(texts: list[list[int]]) -> tuple[float, float]:
    kernel = np.zeros((len(texts), len(texts)))
    for n in (1, 2, 3, 4):
        counts = [grams(text, n) or Counter({("too short",): 1}) for text in texts]
        norms = [math.sqrt(sum(v * v for v in count.values())) for count in counts]
        for i, one in enumerate(counts):
            for j, two in enumerate(counts):
                kernel[i, j] += sum(v * two[g] for g, v in one.items()) / norms[i] / norms[j] / 4  # type: ignore[index]
    values = np.linalg.eigvalsh(kernel / len(texts))
    values = values[values > 1e-14]
    return float(np.exp(-(values * np.log(values)).sum())), float(1 / (values**2).sum())


def slow_ead(texts: list[list[int]], vocabulary: int) -> float:
    ratios = []
    for n in range(1, 6):
        total = sum((grams(text, n) for text in texts), Counter())
        if total:
            expected = vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** sum(total.values()))
            ratios.append(len(total) / expected)
    return float(np.mean(ratios)) if ratios else math.nan


@pytest.mark.parametrize("name", NLTK)
def test_self_bleu_equals_nltk(name: str) -> None:
    texts, expected = NLTK[name]
    assert self_bleu(take_apart(arrays(texts))) == pytest.approx(expected, abs=1e-12)
    assert slow_self_bleu(texts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_against_slow_twins(seed: int) -> None:
    texts = random_texts(seed)
    apart = take_apart(arrays(texts))
    assert self_bleu(apart) == pytest.approx(slow_self_bleu(texts), abs=1e-12)
    assert vendi(apart) == pytest.approx(slow_vendi(texts), rel=1e-9)
    counts = np.array([(found.distinct, found.total) for found in apart.grams])
    for vocabulary in (1, 50, 50_000):
        found = float(ead(counts[:, 0], counts[:, 1], vocabulary))
        assert found == pytest.approx(slow_ead(texts, vocabulary), nan_ok=True)


def test_n_grams_are_counted_per_completion() -> None:
    texts = [[5, 7, 5, 7], [], [7], [2**31 - 1, 5]]
    apart = take_apart(arrays(texts))
    assert apart.lengths.tolist() == [4, 0, 1, 2]
    for n, found in enumerate(apart.grams, start=1):
        own = [grams(text, n) for text in texts]
        assert found.total == sum(sum(count.values()) for count in own)
        assert found.distinct == len(set().union(*own))
        assert sorted(zip(found.owner, found.count, strict=True)) == sorted(
            (i, v) for i, count in enumerate(own) for v in count.values()
        )
        assert (np.diff(found.gram) >= 0).all()
    assert len(apart.grams) == LONGEST


def test_keys_too_large_to_be_packed_are_grouped_alike() -> None:
    generator = np.random.default_rng(0)
    keys, owner = generator.integers(0, 5, 40), np.sort(generator.integers(0, 6, 40))
    small, numbers = _grams(keys, owner)
    large, same = _grams(keys + 2**62, owner)
    assert np.array_equal(numbers, same)
    for field in ("gram", "owner", "count"):
        assert np.array_equal(getattr(small, field), getattr(large, field))


@pytest.mark.parametrize("seed", range(5))
def test_order_does_not_matter(seed: int) -> None:
    texts = random_texts(seed)
    shuffled = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    one, two = take_apart(arrays(texts)), take_apart(arrays(shuffled))
    assert self_bleu(one) == pytest.approx(self_bleu(two), abs=1e-14)
    assert vendi(one) == pytest.approx(vendi(two), rel=1e-12)
    as_bytes = [[bytes(text) for text in order] for order in (texts, shuffled)]
    assert compression_ratio(as_bytes[0]) == pytest.approx(compression_ratio(as_bytes[1]), nan_ok=True)


def test_extremes() -> None:
    copies = take_apart(arrays([[1, 2, 3, 4, 5]] * 6))
    assert self_bleu(copies) == pytest.approx(1)
    assert vendi(copies) == pytest.approx((1, 1))
    different = take_apart(arrays([[10 * i + j for j in range(5)] for i in range(6)]))
    assert self_bleu(different) == 0
    assert vendi(different) == pytest.approx((6, 6))
    assert vendi(take_apart(arrays([[], []]))) == pytest.approx((1, 1))
    assert np.isnan(self_bleu(take_apart(arrays([[1, 2]]))))
    assert np.isnan(self_bleu(take_apart([])))
    assert np.isnan(vendi(take_apart([]))).all()
    assert np.isnan(ead(np.zeros(5), np.zeros(5), 10))


def test_many_features_or_few_give_one_spectrum() -> None:
    """Two letters make 30 n-grams, fewer than the 100 completions: the dual side is taken. The twin takes the other."""
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, 2, 9).tolist() for _ in range(100)]
    assert vendi(take_apart(arrays(texts))) == pytest.approx(slow_vendi(texts), rel=1e-9)


def test_a_large_sparse_kernel_equals_a_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import odeval.metrics.textdiversity as module

    apart = take_apart(arrays([np.random.default_rng(i).integers(0, 30, 40).tolist() for i in range(20)]))
    dense = vendi(apart)
    monkeypatch.setattr(module, "_DENSE", 0)
    assert vendi(apart) == pytest.approx(dense, rel=1e-12)


def test_compression() -> None:
    noise = np.random.default_rng(0).bytes(4000)
    assert compression_ratio([noise]) < 1.01
    assert compression_ratio([noise[:1000]] * 20) > 10
    texts = [f"the answer is {i}".encode() for i in range(50)]
    raw = b"\n".join(sorted(texts))
    assert compression_ratio(texts) == pytest.approx(len(raw) / len(gzip.compress(raw)), rel=0.2)  # another header
    assert np.isnan(compression_ratio([b"", b""]))
    assert np.isnan(compression_ratio([]))
