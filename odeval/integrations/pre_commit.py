"""`python -m odeval.integrations.pre_commit FILE…`: are these rules files well formed? Reads nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main(files: Sequence[str]) -> int:
    """Check rules files.

    Args:
        files: Paths of YAML files.

    Returns:
        0 if all are well formed, 2 otherwise; one line a wrong file on stderr.
    """
    from odeval.config import GateConfig, load_yaml
    from odeval.errors import OdevalError
    from odeval.rules import parse_rule

    code = 0
    for file in files:
        try:
            for rule in load_yaml(Path(file), GateConfig).rules:
                parse_rule(rule, file)
        except OdevalError as error:
            sys.stderr.write(f"odeval: {error}\n")
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
