"""Write session panes into fact_sessions, so that the table has the current state of each session."""

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from schemas.sessions import FACT_SESSION, SESSION_PANE
from stores.lake_commit import CommitResult, WriteMode
from stores.lake_stream import Changes
from transforms.identity.stitching import keep_resolution
from transforms.sessions.panes import SESSION_TIME, fold_into_facts, latest_panes
from transforms.sinks.write_lake import WriteLake


@dataclass(eq=False)
class WriteSessions(beam.PTransform):
    """Writes the last pane of each session into fact_sessions, and removes sessions that were withdrawn.

    Input elements: tables of SESSION_PANE. In a merge, a session's new state replaces its row in the table.

    Attributes:
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append; merge for an unbounded input.
        onto_existing: See `WriteLake`.
        stable_input: See `WriteLake`.
    """

    lake: str
    mode: WriteMode = WriteMode.MERGE
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, panes: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write the panes as changes that fold into sessions."""
        if panes.is_bounded:
            # A revision and Beam's session windows emit early panes too; they need not be shuffled
            panes = panes | "KeepLatest" >> beam.Map(latest_panes).with_output_types(pa.Table)
        return panes | "WriteLake" >> WriteLake(
            FACT_SESSION,
            self.lake,
            self.mode,
            changes=Changes(SESSION_PANE, fold_into_facts, keep_resolution, SESSION_TIME),
            onto_existing=self.onto_existing,
            stable_input=self.stable_input,
        )
