"""Steps that are to share a worker, and those that are not."""

import apache_beam as beam

from transforms.workers import in_worker


def test_steps_of_another_worker_are_of_another_environment_and_all_of_its_name_of_one() -> None:
    pipeline = beam.Pipeline()
    numbers = pipeline | "Create" >> beam.Create([1])
    there = numbers | "There" >> in_worker(beam.Map(abs), "there")
    _ = there | "ThereToo" >> in_worker(beam.Map(abs), "there")
    _ = there | "Here" >> beam.Map(abs)
    _ = there | "HereToo" >> in_worker(beam.Map(abs), None)
    steps = pipeline.to_runner_api().components.transforms.values()
    environment = {step.unique_name: step.environment_id for step in steps}
    assert environment["There"] == environment["ThereToo"]
    assert environment["Here"] == environment["HereToo"]
    assert environment["There"] != environment["Here"]
