"""A program of its own: grades one completion per line of JSON, so that whoever started it can end it when it hangs.

Started by `math_grader` as a file, so that it loads nothing of odeval. Every reply is one line on the channel that was
standard output; what the graders' libraries print there goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

_MEMORY = 8 * 2**30  # bytes of address space: an answer such as 9**9**9 must end here, not end the machine
Reply = dict[str, Any]


def math(answer: str, completion: str) -> Reply:
    """Math-verify's judgement; its own time limits are off, because they call a time-out wrong."""
    math_verify: Any = import_module("math_verify")
    parse, verify = math_verify.parse, math_verify.verify
    gold = parse(answer if re.search(r"\$|\\\(|\\\[|\\boxed", answer) else rf"\boxed{{{answer}}}", parsing_timeout=None)
    if not gold:
        return {"correct": None, "why": f"math-verify cannot read the answer {answer!r}"}
    found = parse(completion, parsing_timeout=None)
    if not found:
        return {"correct": False, "why": "no mathematical answer in the completion"}
    # The gold answer comes first: verify is not symmetric.
    right = verify(gold, found, timeout_seconds=None, raise_on_error=True)
    exact = found[0]
    if getattr(exact, "is_Float", False):  # 0.5 and 1/2 are one answer
        exact = import_module("sympy").Rational(str(exact))
    return {"correct": right, "answer": str(exact), "why": "" if right else f"not equal to {answer}"}


def reasoning_gym(answer: str, completion: str) -> Reply:
    """The score of the dataset's own scorer; right is the full score of 1.

    The answer stands in <answer> tags, or is the whole completion where the entry says `bare`.
    """
    entry = json.loads(answer)
    name = entry["metadata"]["source_dataset"]
    if name not in _SCORERS:  # making one may build the dataset
        _SCORERS[name] = import_module("reasoning_gym").get_score_answer_fn(name)
    tagged = import_module("reasoning_gym.utils").extract_answer
    found = completion.strip() if entry.get("bare") else tagged(completion)
    score = float(_SCORERS[name](answer=found, entry=entry))
    return {"correct": score >= 1.0, "answer": found, "why": "" if score >= 1.0 else f"score {score:g}"}


def regex(answer: str, completion: str) -> Reply:
    """Whether the pattern matches; its first group is the answer."""
    match = re.search(answer, completion)
    if match is None:
        return {"correct": False, "why": "the pattern does not match"}
    first = match.group(1) if match.re.groups else None
    return {"correct": True, "answer": match.group(0) if first is None else first, "why": ""}


_SCORERS: dict[str, Any] = {}
GRADERS: dict[str, Callable[[str, str], Reply]] = {"math": math, "reasoning_gym": reasoning_gym, "regex": regex}


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["grader"] == "import":  # before the clock of the first completion starts
                import_module(request["answer"])
                reply: Reply = {"correct": None}
            else:
                reply = GRADERS[request["grader"]](request["answer"], request["completion"])
        except ImportError as error:
            reply = {"missing": str(error)}
        except (Exception, RecursionError) as error:
            reply = {"correct": None, "why": f"the grader failed ({type(error).__name__})"}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
