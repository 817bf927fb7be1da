"""What each token id reads as, so that contexts can be decoded later without the tokenizer. Pieces join to the text.

A token may hold only some bytes of a character. Such bytes are kept: in memory as the lone surrogates of Python's
"surrogateescape", which `joined` turns into characters again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odeval.atomic import hash_files
from odeval.parts import is_from, read_part, write_table
from odeval.schemas import PIECES
from odeval.store import RunFolder
from odeval.types import content_hash

_UNKNOWN = "\ufffd"
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_SHIFTED = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_LEVEL = {chr(b): b for b in _PRINTABLE} | {chr(256 + n): b for n, b in enumerate(_SHIFTED)}
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def write_pieces(tokenizer: Any, run: RunFolder, work: Sequence[tuple[Path, Path]]) -> None:
    """Write what every token id reads as that occurs in scored completions or dropped branches.

    Args:
        tokenizer: Of Hugging Face.
        run: Where the table is written.
        work: Parts of samples, each with its part of dropped/.
    """
    vocabulary = tokenizer.get_vocab()
    made_from = {
        "vocabulary": content_hash(vocabulary),
        "samples": hash_files([path for path, _ in work]),
        "dropped": hash_files([path for _, path in work]),
    }
    if is_from(run.piece_table, made_from):
        return
    met = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    for path, dropped in work:
        for ids in (pc.list_flatten(read_part(path, ["token_ids"])["token_ids"]), read_part(dropped)["token_id"]):
            met[ids.to_numpy()] = True
    found = np.flatnonzero(met)
    columns = [pa.array(found, pa.int32()), pa.array(pieces_of(tokenizer, found.tolist()), pa.binary())]
    write_table(run.piece_table, pa.table(columns, schema=PIECES), made_from)


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """Spell token ids as they stand inside a text, in UTF-8.

    Each is decoded behind another token, because many decoders drop the space before the first one.

    Args:
        tokenizer: Of Hugging Face.
        ids: Token ids that it knows.

    Returns:
        One piece an id; special tokens by their names.
    """
    if not len(ids):
        return []
    anchor = _anchor(tokenizer)
    texts = _decode(tokenizer, [[*anchor, i] for i in ids])
    start = _decode(tokenizer, [anchor])[0] if anchor else ""
    alone = _decode(tokenizer, [[i] for i in ids])
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        _bytes(text[len(start) :] if text.startswith(start) else own, name or "")
        for text, own, name in zip(texts, alone, names, strict=True)
    ]


def _anchor(tokenizer: Any) -> list[int]:
    """An ordinary token, whose text does not depend on what follows it."""
    special = set(tokenizer.all_special_ids)
    for i in sorted(set(tokenizer.get_vocab().values()) - special):
        if _decode(tokenizer, [[i]])[0].isalnum():
            return [i]
    return []


def _decode(tokenizer: Any, sequences: list[list[int]]) -> list[str]:
    texts: list[str] = tokenizer.batch_decode(sequences, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return texts


def _bytes(text: str, name: str) -> bytes:
    """The text in UTF-8, or the very bytes where it is no whole character."""
    if _UNKNOWN in text and _UNKNOWN not in name:
        if found := _FALLBACK.fullmatch(name):
            return bytes([int(found[1], 16)])
        if all(character in _BYTE_LEVEL for character in name):
            return bytes(_BYTE_LEVEL[character] for character in name)
    return text.encode(errors="replace")


def joined(pieces: Iterable[str]) -> str:
    r"""Put pieces together; bytes that make no character read as �.

    Example:
        >>> joined(["gr", "\udcc3", "\udcbc", "n"])
        'grün'
    """
    return "".join(pieces).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
