"""Tables of an endless input, held back and joined: fewer, larger ones for what costs by the table."""

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms import trigger, window


@dataclass(eq=False)
class Gather(beam.PTransform):
    """Tables → one table every few seconds of the processing time; what is held is in the runner's checkpoint.

    The end of the input lets all go.

    Attributes:
        seconds: How long a table waits at most.
        most: Tables that wait at most; any number by default.
    """

    seconds: int
    most: int | None = None

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Key, hold back, join."""
        let_go = [trigger.AfterProcessingTime(self.seconds), trigger.AfterWatermark()]
        if self.most is not None:
            let_go.append(trigger.AfterCount(self.most))
        return (
            tables
            | "OneKey" >> beam.WithKeys("")
            | "NowAndThen"
            >> beam.WindowInto(
                window.GlobalWindows(),
                trigger=trigger.Repeatedly(trigger.AfterAny(*let_go)),
                accumulation_mode=trigger.AccumulationMode.DISCARDING,
            )
            | "Together" >> beam.GroupByKey()
            | "Join" >> beam.MapTuple(_joined).with_output_types(pa.Table)
        )


def _joined(_: str, tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(list(tables))
