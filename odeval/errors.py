"""Everything a user can mend is an OdevalError: one line, no traceback, a documented exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OdevalError(ValueError):
    """A mistake the user can mend; the text says what, where, what is allowed and what to do next."""

    exit_code = 2


class CannotJudge(OdevalError):
    """The inputs are well formed but do not allow a verdict: a missing baseline, incompatible runs."""

    exit_code = 4


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Word every "no such name" error of the package.

    Args:
        kind: What was looked up, e.g. "task".
        name: What the user wrote.
        allowed: The names that exist.

    Returns:
        One line with the allowed names and, where one is close, a suggestion.

    Example:
        >>> print(unknown("objective", "reverse-kl", ["reverse_kl", "blend"]))
        unknown objective 'reverse-kl': expected one of blend, reverse_kl (did you mean 'reverse_kl'?)
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"unknown {kind} '{name}': expected one of {', '.join(names)}{hint}"
