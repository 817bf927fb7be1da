"""A run's prompts by id: their texts stay in prompts.jsonl until they are asked for, so that many cost little."""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Iterator, Mapping

import numpy as np

from odeval.errors import CannotJudge
from odeval.store import RunFolder, parse_prompt
from odeval.types import Prompt


class Questions(Mapping[str, Prompt]):
    """prompt_id → Prompt, in the order of the ids.

    Args:
        run: Where they are.

    Attributes:
        ids: [P] str, sorted.
        contents: [P] hash of each question, as bytes.
        clusters: [P] int 0 … G − 1; None where no two prompts share a cluster.
        chances: [P] probability that a guess is right; NaN where the task does not state it.
        chat: Some are turns of a conversation.

    Raises:
        CannotJudge: They are missing or damaged.
    """

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path / "prompts.jsonl"
        names, clusters = list[str](), list[str]()
        starts, chances, contents = array("q"), array("d"), bytearray()
        self.chat = False
        for start, prompt in run.iterate_prompts():
            names.append(sys.intern(prompt.prompt_id))  # the runs of a comparison share them
            clusters.append(prompt.cluster or names[-1])
            starts.append(start)
            chances.append(math.nan if prompt.chance is None else prompt.chance)
            contents += prompt.content.encode()
            self.chat |= prompt.messages is not None
        ids = np.array(names, dtype=object)
        order = np.argsort(ids, kind="stable")
        self.ids, self._starts = ids[order], np.array(starts)[order]
        self.chances, self.contents = np.array(chances)[order], np.frombuffer(bytes(contents), "S16")[order]
        groups, index = np.unique(np.array(clusters, dtype=object)[order], return_inverse=True)
        self.clusters: np.ndarray | None = None if len(groups) == len(names) else index

    def __getitem__(self, prompt_id: str) -> Prompt:
        place = int(np.searchsorted(self.ids, prompt_id))
        if place == len(self.ids) or self.ids[place] != prompt_id:
            raise KeyError(prompt_id)
        try:
            with self._path.open("rb") as file:
                file.seek(self._starts[place])
                return parse_prompt(json.loads(file.readline()))
        except (OSError, ValueError) as error:
            raise CannotJudge(f"{self._path}: it changed while it was read ({error}); run the command again") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_clusters(self) -> int:
        """What is independent: clusters, or the prompts themselves."""
        return len(self.ids) if self.clusters is None else int(self.clusters.max()) + 1
