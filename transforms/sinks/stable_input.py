"""Stable input for steps with side effects that a restore does not undo: they see only checkpointed elements."""

from typing import Any

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.transforms import trigger, window

_PAST_THE_END = 2 * 86_400
"""Seconds. The global window ends one day before the final watermark of an input that has ended."""


class BreakFusion(beam.PTransform):
    """Keyed elements → (key, one element): a shuffle that emits each element at once, to put a checkpoint in between.

    Args:
        from_timers: Whether timers at the end of the input emit elements. On a runner that does not hold the watermark
            for them they are late, so this transform accepts late elements; downstream steps must not rely on the
            watermark to wait for them.
    """

    def __init__(self, from_timers: bool = False) -> None:
        super().__init__()
        self._lateness = _PAST_THE_END if from_timers else 0

    def expand(self, keyed: beam.PCollection[tuple[Any, Any]]) -> beam.PCollection[tuple[Any, Any]]:
        """Group by key, with a trigger that fires for every element."""
        return (
            keyed
            | "Globally"
            >> beam.WindowInto(
                window.GlobalWindows(),
                trigger=trigger.Repeatedly(trigger.AfterCount(1)),
                accumulation_mode=trigger.AccumulationMode.DISCARDING,
                allowed_lateness=self._lateness,
            )
            | "Group" >> beam.GroupByKey()
        )


class StableParDo(beam.ParDo):
    """A ParDo that requires stable input: a retried bundle sees the same input. Beam's Python SDK lacks an option."""

    def to_runner_api_parameter(self, context: Any, **extra: Any) -> Any:
        """Add the requirement to Beam's translation of the step."""
        urn, payload = super().to_runner_api_parameter(context, **extra)
        payload.requires_stable_input = True
        context.add_requirement(common_urns.requirements.REQUIRES_STABLE_INPUT.urn)
        return urn, payload


def stable_par_do(step: beam.DoFn, stable_input: bool) -> beam.ParDo:
    """A ParDo that requires stable input if `stable_input` is set: Flink needs the request, FnApiRunner rejects it."""
    return StableParDo(step) if stable_input else beam.ParDo(step)
