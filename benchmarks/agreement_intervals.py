"""Intervals have no exact answer: how often do they hold the truth, in simulated runs of known solve rates?

Other prompts: the simultaneous band of the whole curve against the difference between all prompts of that kind. Same
prompts: the interval at one k against the difference of these very prompts' curves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from agreement_fixtures import KS, REPETITIONS, SAME_KS, SAMPLES, SHARPENED, simulated
from agreement_odeval import curve
from scipy import integrate, special

from odeval.stats import sup_t

SIZES = (30, 200)
SAME_SIZE = 100
Z = float(special.ndtri(0.975))


def cases(size: int, ks: list[int], rates: str = "from 0 to 1") -> list[list[Any]]:
    return [[*simulated(size, seed, rates)[:2], SAMPLES, ks] for seed in range(REPETITIONS)]


def asked() -> dict[str, list[Any]]:
    """The cases of all intervals, by name."""
    return {
        "other prompts": [case for size in SIZES for case in cases(size, KS)],
        "same prompts": cases(SAME_SIZE, SAME_KS),
        "same prompts, uniform": cases(SAME_SIZE, SAME_KS, "uniform"),
        "same prompts, pass@1": cases(SAME_SIZE, [1]),
    }


def everywhere(k: int) -> float:
    """Difference of pass@k over all prompts; rates are Beta(0.7, 1), whose distribution function is p^0.7."""

    def at(u: float) -> float:
        p = u ** (1 / 0.7)
        sharp = p**SHARPENED / (p**SHARPENED + (1 - p) ** SHARPENED)
        return float((1 - p) ** k - (1 - sharp) ** k)

    return float(integrate.quad(at, 0, 1, epsabs=1e-12, limit=200)[0])


def other_prompts(answers: list[list[float]]) -> list[dict[str, Any]]:
    """One row a number of prompts."""
    target, rows = np.array([everywhere(k) for k in KS]), []
    for place, size in enumerate(SIZES):
        told = np.array(answers[place * REPETITIONS : (place + 1) * REPETITIONS])
        low, high, se, critical = np.split(told, [len(KS), 2 * len(KS), 3 * len(KS)], axis=1)
        bands, own_se, gaussian = [], [], []
        for c0, c1, _, ks in cases(size, KS):
            found = curve(c0, c1, ks)
            covariance = found.scopes["population"].covariance
            bands.append(found.band("population", 0.95))
            own_se.append(np.sqrt(np.diag(covariance)))
            # its multipliers have variance (P − 1) / P of what it divides by
            gaussian.append(sup_t(covariance, None, 0.95) * np.sqrt((size - 1) / size))
        ours = np.array(bands)
        both = np.abs(ours - np.stack([low, high], axis=1))
        middle = (low + high) / 2
        again = np.stack([middle - np.array(gaussian)[:, None] * se, middle + np.array(gaussian)[:, None] * se], axis=1)
        rows.append({
            "prompts": size, "ks": KS, "covered": covered(low, high, target),
            "covered_odeval": covered(*axes(ours), target),
            "width": width(low, high), "width_odeval": width(*axes(ours)), "difference": float(both.max()),
            "se_difference": float(np.abs(np.array(own_se) - se).max()),
            "left": float(np.abs(again - np.stack([low, high], axis=1)).max()),
            "critical": float(critical.mean()), "critical_explained": float(np.mean(gaussian)),
        })  # fmt: skip
    return rows


def axes(bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return bands[:, 0], bands[:, 1]


def covered(low: np.ndarray, high: np.ndarray, target: np.ndarray) -> float:
    return float(((low <= target) & (target <= high)).all(1).mean())


def width(low: np.ndarray, high: np.ndarray) -> float:
    return float((high - low).mean())


def same_prompts(answers: list[list[float]], ks: list[int], rates: str, posterior: bool) -> list[dict[str, Any]]:
    """One row a k; what is left after the posterior means of the prior Beta(1, 1), where it tells those."""
    told = np.array(answers).reshape(REPETITIONS, len(ks), 2)
    target, value, half, prior = (np.zeros((REPETITIONS, len(ks))) for _ in range(4))
    for seed, (c0, c1, n, _) in enumerate(cases(SAME_SIZE, ks, rates)):
        true = simulated(SAME_SIZE, seed, rates)[2]
        found = curve(c0, c1, ks)
        value[seed] = found.difference
        half[seed] = found.scopes["benchmark"].half_width(0.95, simultaneous=False)
        for j, k in enumerate(ks):
            before, after = ((1 - own) ** k for own in true)
            target[seed, j] = (before - after).mean()
            prior[seed, j] = np.mean(missed(np.array(c0), n, k) - missed(np.array(c1), n, k))
    middle, sd = told[..., 0], told[..., 1]
    return [
        {
            "prompts": SAME_SIZE, "ks": [k], "rates": rates,
            "covered": covered(*around(middle, Z * sd, j), target[:, [j]]),
            "covered_odeval": covered(*around(value, half, j), target[:, [j]]),
            "width": float(2 * Z * sd[:, j].mean()), "width_odeval": float(2 * half[:, j].mean()),
            "difference": float(np.abs(middle - value)[:, j].max()),
            "left": float(np.abs(middle - prior)[:, j].max()) if posterior else None,
            "bias": float((middle - target)[:, j].mean()), "bias_odeval": float((value - target)[:, j].mean()),
        }
        for j, k in enumerate(ks)
    ]  # fmt: skip


def around(middle: np.ndarray, half: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    return (middle - half)[:, [j]], (middle + half)[:, [j]]


def missed(c: np.ndarray, n: int, k: int) -> np.ndarray:
    """E (1 − p)^k under the posterior Beta(1 + c, 1 + n − c)."""
    found: np.ndarray = np.exp(special.betaln(1 + c, 1 + n - c + k) - special.betaln(1 + c, 1 + n - c))
    return found
