"""What the objective study compares: arms, worlds, starts, budgets. Names only; the numbers come out of training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

_ON, _MIX, _OFF = {"lmbda": 1.0}, {"lmbda": 0.5, "seq_kd": True}, {"lmbda": 0.0, "seq_kd": True}

# Arm → settings of odkd; a recipe's name means that recipe as it is shipped.
ARMS: dict[str, dict[str, Any]] = {
    "reverse_kl": {"recipe": "reverse_kl"},
    "pg_reverse_kl": {"objective": "pg_reverse_kl", **_ON},
    "forward_kl": {"recipe": "forward_kl"},
    "jsd": {"objective": "jsd", "beta": 0.5, **_ON},
    "blend_0.1": {"recipe": "blend", "forward_weight": 0.1},
    "blend_0.3": {"recipe": "blend", "forward_weight": 0.3},
    "blend_0.5": {"recipe": "blend", "forward_weight": 0.5},
    "blend_0.7": {"recipe": "blend", "forward_weight": 0.7},
    "entropy_gated": {"recipe": "entropy_gated"},
    "eopd": {"recipe": "eopd"},
    "skew_reverse_kl": {"objective": "skew_reverse_kl", "skew_alpha": 0.1, **_ON},
    "skew_forward_kl": {"objective": "skew_forward_kl", "skew_alpha": 0.1, **_ON},
    "reverse_kl_mix": {"objective": "reverse_kl", **_MIX},
    "gkd": {"recipe": "gkd"},
    "forward_kl_mix": {"objective": "forward_kl", **_MIX},
    "each_its_own": {"objective": "reverse_kl", "off_policy_objective": "forward_kl", **_MIX},
    "two_phase": {"recipe": "qwen3"},
    "reverse_kl_off": {"objective": "reverse_kl", **_OFF},
    "jsd_off": {"objective": "jsd", "beta": 0.5, **_OFF},
    "supervised_kd": {"recipe": "supervised_kd"},
    "seqkd": {"recipe": "seqkd"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "reverse_kl_cool": {"recipe": "reverse_kl", "temperature": 0.6},
    "reverse_kl_hot": {"recipe": "reverse_kl", "temperature": 1.4},
}  # their learning rate is that of the arm they vary
MAIN = ("reverse_kl", "forward_kl", "blend_0.3", "gkd", "pg_reverse_kl")
ONE_RATE = ("reverse_kl", "pg_reverse_kl", "forward_kl", "jsd", "blend_0.3", "reverse_kl_off", "supervised_kd")
SELECTION_SEED = 1000
SAMPLED_PROMPTS, SAMPLES = 100, 128  # twice the largest k, which keeps the sampled pass@k steady


@dataclass(frozen=True, slots=True)
class Case:
    """One world, one start, one budget, and the arms that are trained from there.

    Attributes:
        world: Name.
        start: "warm_start" is the embedded one; "wide" and "peaked" are made here.
        arms: Names of ARMS or VARIANTS.
        steps: Updates of every arm.
        batch: Completions of an update.
        rates: Tried for every arm on the selection prompts; none: the arm's rate in `rates_of`.
        beyond: Tried as well for an arm that is best at the lowest, or at the highest, of those.
        seeds: Of training, reported.
        rates_of: Case whose rates are taken over.
    """

    world: str
    start: str
    arms: tuple[str, ...]
    steps: int
    batch: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    rates_of: str = ""
    beyond: tuple[float, float] = (1e-3, 1e-1)


_RATES = (3e-3, 1e-2, 3e-2)
_SEEDS = (0, 1, 2, 3, 4)
CASES: dict[str, Case] = {  # the first is the one that the others vary
    "graph_paths": Case("graph_paths", "warm_start", tuple(ARMS), 100, 128, _RATES, _SEEDS),
    "wider student": Case("graph_paths", "wide", MAIN[:4], 100, 128, _RATES, _SEEDS),
    "peaked start": Case("graph_paths", "peaked", MAIN, 100, 128, (), _SEEDS, "graph_paths"),
    "rollout temperature": Case("graph_paths", "warm_start", tuple(VARIANTS), 100, 128, (), _SEEDS, "graph_paths"),
    "every arm at 0.003": Case("graph_paths", "warm_start", ONE_RATE, 100, 128, (3e-3,), _SEEDS),
    "every arm at 0.01": Case("graph_paths", "warm_start", ONE_RATE, 100, 128, (1e-2,), _SEEDS),
    "four times the steps": Case("graph_paths", "warm_start", MAIN, 400, 128, (), _SEEDS, "graph_paths"),
    "countdown": Case("countdown", "warm_start", tuple(ARMS), 100, 32, (3e-4, 1e-3, 3e-3), _SEEDS, "", (1e-4, 1e-2)),
}


def quick_cases() -> dict[str, Case]:
    """A small version that ends in minutes: it shows that the study runs, not what is true."""
    first = replace(CASES["graph_paths"], arms=MAIN, steps=40, rates=(1e-2,), seeds=(0, 1))
    peaked = replace(CASES["peaked start"], arms=MAIN[:2], steps=40, seeds=(0, 1))
    return {"graph_paths": first, "peaked start": peaked}


def varied(arm: str) -> str:
    """The arm that a variant varies; itself where it is none."""
    return arm if arm in ARMS else arm.rpartition("_")[0]
