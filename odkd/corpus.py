"""A fixed file of completions to learn from: {"prompt" or "messages", "completion"} a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.types import Prompt

Example = tuple[list[int], list[int]]  # token ids of prompt and completion


def read_corpus(path: Path, model: HfModel, max_completion_length: int) -> list[Example]:
    """Read and tokenize a corpus.

    Args:
        path: The file.
        model: Whose tokenizer and chat template are used.
        max_completion_length: A longer completion is cut, and then has no end token.

    Returns:
        Token ids; a completion that fits ends with the end token.

    Raises:
        OdevalError: The file or a line of it cannot be read, or the model has no end token.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OdevalError(f"corpus {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    end = getattr(model.tokenizer, "eos_token_id", None)
    if end is None:
        raise OdevalError(f"corpus {path}: {model.name} has no end token, so no completion could be told to be whole")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parsed(line, f"corpus {path}:{number}")
        prompt = Prompt(text=row.get("prompt"), messages=tuple(row["messages"]) if "messages" in row else None)
        ids = [*model.tokenizer(row["completion"], add_special_tokens=False)["input_ids"], end]
        found.append((model.encode(prompt), [int(token) for token in ids[:max_completion_length]]))
    if not found:
        raise OdevalError(f"corpus {path}: holds no line; write {{prompt, completion}} lines, or use seq_kd: true")
    return found


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OdevalError(f"{where}: is no JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
        raise OdevalError(f"{where}: expected an object with prompt and completion, both text")
    if ("messages" in row) == isinstance(row.get("prompt"), str):
        raise OdevalError(f"{where}: expected either prompt (text) or messages (a list of turns)")
    return row
