"""A single-node Cassandra cluster on this machine, for trials and tests."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.services.home import state_home
from runners.services.jars import STEADY_HEAP, class_path, java, resolve_jars
from runners.services.processes import DetachedProcess, free_port, listens
from schemas.errors import ServiceError

POM = Path(__file__).with_name("cassandra.pom.xml")
START_SECONDS = 180.0
# packages that Cassandra accesses and Java 17 keeps closed by default
_EXPORTED = (
    *("java.base/jdk.internal.misc", "java.base/jdk.internal.ref", "java.base/sun.nio.ch", "java.sql/java.sql"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server"),
)
_OPENED = (
    *(f"java.base/java.{name}" for name in ("io", "lang", "lang.module", "lang.reflect", "math", "net", "nio", "util")),
    *(f"java.base/java.util.{name}" for name in ("concurrent", "concurrent.atomic")),
    *(f"java.base/jdk.internal.{name}" for name in ("loader", "math", "module", "ref", "reflect", "util.jar")),
    *("java.base/sun.nio.ch", "jdk.management/com.sun.management.internal"),
)
_LOGGING = """\
<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{20} - %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""
# protocol version 4: an OPTIONS request, and the opcode of the SUPPORTED response
_OPTIONS, _SUPPORTED = b"\x04\x00\x00\x00\x05\x00\x00\x00\x00", 6


class CassandraService:
    """A node whose data, log and process file are below a folder. Several can run side by side in separate folders.

    Args:
        home: The folder; by default the user's state folder.
        settings: Entries of cassandra.yaml in addition to those that a local node needs.
    """

    def __init__(self, home: Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = (home or state_home()).absolute() / "cassandra"
        self.process = DetachedProcess("cassandra", self.folder)
        self._settings = dict(settings or {})

    def up(self, port: int | None = None) -> str:
        """Start the node and wait until it answers.

        Args:
            port: Port for clients; by default any free port.

        Returns:
            The node's address, as used in a device store's URI.

        Raises:
            ServiceError: Java or Maven is missing, or the node is already running or cannot start.
        """
        jars = resolve_jars(POM)
        if self.process.pid is not None:
            raise ServiceError("Cassandra runs already: take it down first")
        port = port or free_port()
        if listens(f"127.0.0.1:{port}"):
            raise ServiceError(f"Cassandra cannot have port {port}: another program listens there")
        self.process.start(self._command(jars, port))
        self.process.wait_until(lambda: _answers(port), START_SECONDS)
        return f"127.0.0.1:{port}"

    def down(self) -> None:
        """Stop the node if it is running; its keyspaces are kept."""
        self.process.stop()

    def _command(self, jars: list[Path], port: int) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        config, logging = self.folder / "cassandra.yaml", self.folder / "logback.xml"
        # JSON is YAML
        config.write_text(json.dumps(_node_settings(self.folder, port) | self._settings, indent=1), encoding="utf-8")
        logging.write_text(_LOGGING, encoding="utf-8")
        agent = next(jar for jar in jars if jar.name.startswith("jamm-"))
        return [
            *(java(), "-Xms256m", "-Xmx384m", STEADY_HEAP, "-XX:+ExitOnOutOfMemoryError", f"-javaagent:{agent}"),
            *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTED),
            *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENED),
            f"-Djava.io.tmpdir={self.process.empty_tmpdir()}",
            "-Djdk.attach.allowAttachSelf=true",
            *(f"-Dcassandra.config={config.as_uri()}", f"-Dcassandra.storagedir={self.folder}"),
            f"-Dlogback.configurationFile={logging}",
            # a single node need not wait for others
            *("-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=0"),
            "-Dcassandra.superuser_setup_delay_ms=0",
            *("-cp", class_path(jars), "org.apache.cassandra.service.CassandraDaemon"),
        ]


def _node_settings(folder: Path, port: int) -> dict[str, Any]:
    storage = free_port()
    return {
        "cluster_name": "clickstream",
        "num_tokens": 1,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": f"127.0.0.1:{storage}"}],
            }
        ],
        "listen_address": "127.0.0.1",
        "rpc_address": "127.0.0.1",
        "storage_port": storage,
        "native_transport_port": port,
        "commitlog_sync": "periodic",
        "commitlog_sync_period": "10s",
        "commitlog_segment_size": "8MiB",
        # a snapshot of every truncated table would fill the disk
        "auto_snapshot": False,
        "data_file_directories": [str(folder / "data")],
        "commitlog_directory": str(folder / "commitlog"),
        "saved_caches_directory": str(folder / "saved_caches"),
        "hints_directory": str(folder / "hints"),
        "cdc_raw_directory": str(folder / "cdc_raw"),
    }


def _answers(port: int) -> bool:
    """Whether a node answers an OPTIONS request at the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(_OPTIONS)
            head = connection.recv(9)
    except OSError:
        return False
    return len(head) > 4 and head[4] == _SUPPORTED
