"""Steps whose effect is not undone by a restore: they see only what the runner's checkpoint has."""

from typing import Any

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.transforms import trigger, window

_PAST_THE_END = 2 * 86_400
"""Seconds: the global window ends a day before the watermark of an input that has ended."""


class BreakFusion(beam.PTransform):
    """Keyed elements → each at once and on its own, (key, one element): for the checkpoint between, not to gather.

    Args:
        from_timers: Whether elements come of timers at the end of the input, where they are late on a runner that holds
            no watermark for them. What follows must not wait for them then.
    """

    def __init__(self, from_timers: bool = False) -> None:
        super().__init__()
        self._lateness = _PAST_THE_END if from_timers else 0

    def expand(self, keyed: beam.PCollection[tuple[str, Any]]) -> beam.PCollection[tuple[str, Any]]:
        """A grouping that keeps nothing waiting."""
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
    """A ParDo whose input is the same when a bundle is retried. Beam's Python SDK has no other way to say so."""

    def to_runner_api_parameter(self, context: Any, **extra: Any) -> Any:
        """Beam's translation, and the requirement."""
        urn, payload = super().to_runner_api_parameter(context, **extra)
        payload.requires_stable_input = True
        context.add_requirement(common_urns.requirements.REQUIRES_STABLE_INPUT.urn)
        return urn, payload


def stable_par_do(step: beam.DoFn, stable_input: bool) -> beam.ParDo:
    """A ParDo that requires stable input where the runner has to be asked for it (Flink); FnApiRunner refuses."""
    return StableParDo(step) if stable_input else beam.ParDo(step)
