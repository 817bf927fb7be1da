"""The schema of every table of a run folder. Entropies, log-probabilities and divergences are in nats."""

from __future__ import annotations

import pyarrow as pa

SAMPLES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        pa.field("seed", pa.uint64()),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("logprobs", pa.list_(pa.float32())),  # the engine's own, at temperature 1; null if it gave none
        pa.field("completion", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("entropies", pa.list_(pa.float32())),  # at temperature 1, token by token; null if it gave none
    ]
)
GRADES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        pa.field("correct", pa.bool_()),  # null: not graded. Never counted as wrong
        pa.field("answer", pa.string()),
        pa.field("why", pa.string()),
    ]
)
REWARD = pa.field("reward", pa.float64())  # appended to GRADES where a log has a verifier's or reward model's score
TOKEN_COLUMNS = (
    "teacher_logprob",
    "student_logprob",
    "teacher_entropy",
    "student_entropy",
    "forward_kl",
    "reverse_kl",
)
BRANCH_FLOOR = 0.3  # nats of teacher entropy under which a position is not looked at; no threshold may be lower
BRANCH_COLUMNS = ("nucleus_recall", "top_overlap", "dropped")  # NaN below the floor; see odeval.branching
TOKENS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        *(pa.field(name, pa.list_(pa.float32())) for name in (*TOKEN_COLUMNS, *BRANCH_COLUMNS)),
    ]
)
BOUND_COLUMNS = (  # instead of values, where a backend gives only the K likeliest tokens; see odeval.metrics.topk
    "teacher_entropy_low",
    "teacher_entropy_high",
    "student_entropy_low",
    "student_entropy_high",
    "teacher_mass",
    "student_mass",
)
TOKEN_BOUNDS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        *(pa.field(name, pa.list_(pa.float32())) for name in BOUND_COLUMNS),
    ]
)
TEACHER_LEAST, STUDENT_MOST = 0.1, 0.01  # a dropped branch: likelier than this for the teacher, rarer for the student
DROPPED = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # tokens of the completion before it
        pa.field("token_id", pa.int32(), nullable=False),
        *(
            pa.field(name, pa.float32(), nullable=False)
            for name in ("teacher_prob", "student_prob", "teacher_entropy", "student_entropy")
        ),
    ]
)
PIECES = pa.schema([pa.field("token_id", pa.int32(), nullable=False), pa.field("piece", pa.binary(), nullable=False)])
