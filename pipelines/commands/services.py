"""The command `services`: a real broker and a real cluster on this machine."""

import json
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson
from pipelines.options import Problems, parse_choice
from pipelines.terminal import OUT, verbatim
from runners.services import FlinkCluster, KafkaService

SERVICES: dict[str, type[KafkaService] | type[FlinkCluster]] = {"kafka": KafkaService, "flink": FlinkCluster}
ADDRESS = {"kafka": "bootstrap", "flink": "master"}
"""What the address of each is called where another command takes it."""

services = typer.Typer(no_args_is_help=True, help="Kafka and Flink on this machine: real ones, on the loopback.")
Name = Annotated[str, typer.Argument(metavar="kafka|flink|all", help="Which.", show_default=False)]


@services.command()
def up(name: Name, as_json: AsJson = False) -> None:
    """Start what does not run; it is ready when this returns. The first time Maven fetches what they need."""
    _show({chosen: SERVICES[chosen]().up() for chosen in _named(name)}, as_json)


@services.command()
def down(name: Name = "all") -> None:
    """Stop what runs. Topics stay, and so do the checkpoints of jobs, which end."""
    for chosen in reversed(_named(name)):
        SERVICES[chosen]().down()


@services.command()
def status(name: Name = "all", as_json: AsJson = False) -> None:
    """Show where they are. What does not answer is down."""
    _show({chosen: SERVICES[chosen]().status() for chosen in _named(name)}, as_json)


def _named(name: str) -> list[str]:
    problems = Problems()
    problems.attempt("", lambda: parse_choice(name, (*SERVICES, "all")))
    problems.raise_any()
    return list(SERVICES) if name == "all" else [name]


def _show(addresses: dict[str, str | None], as_json: bool) -> None:
    if as_json:
        found = {name: address and {ADDRESS[name]: address} for name, address in addresses.items()}
        OUT.print_json(json.dumps(found))
        return
    for name, address in addresses.items():
        OUT.print(f"{name:6}", verbatim(address or "down"), highlight=False)
