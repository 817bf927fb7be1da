"""Model text is hostile text: what a reader cannot see is made visible, and no text is longer than it may be."""

from __future__ import annotations

import unicodedata

# Letters, marks and symbols that draw nothing, which their category does not tell.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_UNSEEN = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))


def visible(text: str, most: int | None = None, lines: bool = False) -> str:
    r"""Replace every character that hides, reorders or draws nothing by a glyph that says which it is.

    Control and escape characters, bidirectional overrides, zero-width characters, variation selectors, lone
    surrogates and unassigned code points are all replaced, so the result is safe to write as XML, HTML or UTF-8
    once escaped, and reads in the order in which it is stored.

    Args:
        text: Anything a model, a user or a file name may hold.
        most: Characters of `text` to keep; an ellipsis stands for the rest.
        lines: Keep line feeds and tabs.

    Example:
        >>> visible("a\x1b[31m\u202eb\x00")
        'a␛[31m⟨U+202E⟩b␀'
        >>> visible("one two three", most=7)
        'one two…'
    """
    cut = text if most is None or len(text) <= most else text[:most]
    shown = "".join(character if lines and character in "\n\t" else _glyph(character) for character in cut)
    return shown if cut is text else shown.rstrip() + "…"


def shortened(text: str, most: int) -> str:
    """Cut a name in its middle, because names of checkpoints differ at both ends.

    Args:
        text: A name.
        most: Columns it may take; wide East Asian characters take two.

    Example:
        >>> shortened("checkpoint-reverse-kl-step-4000", 17)
        'checkpoi…tep-4000'
    """
    shown = visible(text)
    if _columns(shown) <= most:
        return shown
    start, end = 0, len(shown)
    while _columns(shown[: start + 1]) <= most // 2:
        start += 1
    while _columns(shown[end - 1 :]) <= most - 1 - most // 2:
        end -= 1
    return f"{shown[:start]}…{shown[end:]}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _glyph(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if 0x20 < code < 0x7F or character == " ":
        return character
    selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    if selector or character in _BLANK or unicodedata.category(character) in _UNSEEN:
        return f"⟨U+{code:04X}⟩"
    return character
