"""Where a gate's verdict goes besides the terminal: JUnit, OpenMetrics, GitHub. One verdict object feeds them all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odeval.atomic import write_text
from odeval.errors import OdevalError
from odeval.integrations.judging import Judged


@dataclass(frozen=True, slots=True)
class Outlets:
    """What `odeval gate` was asked to write.

    Attributes:
        junit: JUnit XML.
        metrics: OpenMetrics text.
        github: Step summary, annotations and outputs.
        out: Folder of comparison, verdict and report, to name it.
        strict: Inconclusive is failed.
        json: stdout holds JSON and nothing else.
    """

    junit: Path | None = None
    metrics: Path | None = None
    github: bool = False
    out: Path | None = None
    strict: bool = False
    json: bool = False

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Guard the judging and printing: no text in it is a workflow command, and an error reaches every outlet."""
        try:
            with contextlib.ExitStack() as stack:
                if self.github and not self.json:
                    from odeval.integrations import github

                    stack.enter_context(github.commands_off(github.stream_of(self.json)))
                yield
        except Exception as error:
            reason = str(error) if isinstance(error, OdevalError) else "an error inside odeval; see the log"
            with contextlib.suppress(OdevalError):  # what went wrong first is what the user should read
                self._failed(reason)
            raise

    def publish(self, judged: Judged) -> None:
        """Write the verdict to every outlet."""
        comparisons = list(judged.comparisons.values())
        if self.junit is not None:
            from odeval.exporters.junit import junit

            write_text(self.junit, junit(judged.verdict, self.strict))
        if self.metrics is not None:
            from odeval.exporters.openmetrics import openmetrics

            write_text(self.metrics, openmetrics(comparisons, judged.verdict))
        if self.github:
            from odeval.integrations import github

            github.publish(comparisons, judged.verdict, self.out, self.strict, github.stream_of(self.json))

    def _failed(self, reason: str) -> None:
        """Without this an old report would be read as this one's."""
        if self.junit is not None:
            from odeval.exporters.junit import junit_error

            write_text(self.junit, junit_error(reason))
        if self.metrics is not None:
            write_text(self.metrics, "# EOF\n")
        if self.github:
            from odeval.integrations import github

            github.publish_error(reason, github.stream_of(self.json))
