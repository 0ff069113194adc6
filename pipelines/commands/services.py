"""The command `services`: run a Kafka broker and a Flink cluster on this machine."""

import json
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson
from pipelines.options import Problems, parse_choice
from pipelines.terminal import OUT, verbatim
from runners.services import FlinkCluster, KafkaService

SERVICES: dict[str, type[KafkaService] | type[FlinkCluster]] = {"kafka": KafkaService, "flink": FlinkCluster}
ADDRESS = {"kafka": "bootstrap", "flink": "master"}
"""The JSON key under which each service's address is printed."""

services = typer.Typer(no_args_is_help=True, help="Run Kafka and Flink on this machine's loopback interface.")
Name = Annotated[str, typer.Argument(metavar="kafka|flink|all", help="Which service.", show_default=False)]


@services.command()
def up(name: Name, as_json: AsJson = False) -> None:
    """Start services and wait until they are ready. On first use Maven downloads what they need."""
    _show({chosen: SERVICES[chosen]().up() for chosen in _named(name)}, as_json)


@services.command()
def down(name: Name = "all") -> None:
    """Stop services. Running jobs end; topics and checkpoints are kept."""
    for chosen in reversed(_named(name)):
        SERVICES[chosen]().down()


@services.command()
def status(name: Name = "all", as_json: AsJson = False) -> None:
    """Show the address of each service, or down if it does not answer."""
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
