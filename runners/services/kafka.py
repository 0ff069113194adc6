"""A Kafka broker on this machine, one process that is both broker and controller, for trials and tests."""

import base64
import json
import logging
import subprocess
import uuid
from pathlib import Path

from runners.services.home import locked, state_home
from runners.services.jars import STEADY_HEAP, class_path, java, resolve_jars
from runners.services.processes import DetachedProcess, free_port, listens, tail
from schemas.errors import ServiceError

POM = Path(__file__).with_name("kafka.pom.xml")
START_SECONDS = 60.0
_SETTINGS = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}
# A single broker cannot replicate
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Let a killed broker rejoin soon, without waiting long for its old session to expire
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# The default, 128 MB, is half of the heap
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
"""


class KafkaService:
    """A broker whose data, log and process file are below a folder. Several can run side by side in separate folders.

    Args:
        home: The folder; by default the user's state folder.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.folder = (home or state_home()).absolute() / "kafka"
        self.process = DetachedProcess("kafka", self.folder)

    @property
    def address(self) -> str:
        """The broker's address, or the last one if it is not running."""
        return f"127.0.0.1:{self._last_port()}"

    def up(self, port: int | None = None) -> str:
        """Start the broker unless it is running, and wait until it answers.

        Args:
            port: Port to listen on; by default the last one used, or else any free port.

        Returns:
            The broker's address, for ``bootstrap.servers``.

        Raises:
            ServiceError: The broker cannot start, or runs on a port other than the requested one.
        """
        jars = resolve_jars(POM)
        with locked(self.folder):
            if self.process.pid is None:
                self._start(jars, port)
            address = self.address
            if port is not None and not address.endswith(f":{port}"):
                raise ServiceError(f"kafka runs at {address}: take it down first to have it on port {port}")
            self.process.wait_until(lambda: _answers(address), START_SECONDS)
            return address

    def down(self) -> None:
        """Stop the broker if it is running; its topics are kept."""
        with locked(self.folder):
            self.process.stop()

    def status(self) -> str | None:
        """The broker's address if it runs and answers; otherwise None."""
        if self.process.pid is None:
            return None
        address = self.address
        return address if _answers(address) else None

    def _start(self, jars: list[Path], port: int | None) -> None:
        settings = self.folder / "server.properties"
        port = port or self._last_port() or free_port()
        if listens(f"127.0.0.1:{port}"):
            # Otherwise the other program's answers would be taken for those of this broker, which could not start
            raise ServiceError(f"kafka cannot have port {port}: another program listens there")
        data = self.folder / "data"
        text = _SETTINGS.format(port=port, controller=free_port(), data=data)
        settings.write_text(text, encoding="utf-8")
        (self.folder / "address.json").write_text(json.dumps({"port": port}), encoding="utf-8")
        run = [java(), "-Xmx256m", STEADY_HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        run += ["-Dorg.slf4j.simpleLogger.showDateTime=true", f"-Djava.io.tmpdir={self.process.empty_tmpdir()}"]
        run += ["-cp", class_path(jars)]
        if not (data / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            with open(self.process.log, "w", encoding="utf-8") as log:
                formatted = subprocess.run(  # noqa: S603
                    [*run, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", f"--config={settings}"],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
            if formatted.returncode != 0:
                raise ServiceError(f"kafka cannot format {data}; {tail(self.process.log)}")
        self.process.start([*run, "kafka.Kafka", str(settings)])

    def _last_port(self) -> int | None:
        try:
            return int(json.loads((self.folder / "address.json").read_text(encoding="utf-8"))["port"])
        except FileNotFoundError:
            return None


def _answers(address: str) -> bool:
    """Whether a broker at this address returns its metadata."""
    if not listens(address):
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # The client would log repeatedly that nothing listens yet, which is expected here
    muted = logging.getLogger(f"{__name__}.muted")
    muted.disabled = True
    client = AdminClient({"bootstrap.servers": address}, logger=muted)
    try:
        return bool(client.list_topics(timeout=1.0).brokers)
    except KafkaException:
        return False
