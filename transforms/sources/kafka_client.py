"""Clients of a Kafka cluster: how they are configured, what they log, and which of their errors end a run. No Beam."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin._metadata import ClusterMetadata, TopicMetadata

from schemas.errors import InputError, OptionError

Client = TypeVar("Client")

REPEAT_SECONDS = 60.0
"""A client that cannot connect says so all the time; of each kind of message one passes in this time."""

_JAAS_LOGIN = re.compile(r'\b(username|password)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\')')
_PROPERTY_NAME = re.compile(r'(?:property:? ")([\w.]+)|\b((?:ssl|sasl)\.[\w.]+)')
_REQUEST_SECONDS = 5.0


class BrokerUnreachableError(InputError):
    """No broker answers. A worker waits and tries again; a check before the start gives up."""


class NoSuchTopicError(InputError):
    """The cluster answers, and has no topic of that name."""


class _OncePer(logging.Filter):
    """Lets one message of each kind pass in `REPEAT_SECONDS`: of librdkafka's kinds, as FAIL, and of ours."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind: object = record.msg
        if isinstance(record.args, tuple) and len(record.args) == 3:
            kind = record.args[0]  # as librdkafka's messages are made: its kind, the client, the text
        now = time.monotonic()
        if now - self._passed.get(kind, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._passed[kind] = now
        return True


LOGGER = logging.getLogger("clickstream.kafka")
LOGGER.addFilter(_OncePer())
_SILENT = logging.getLogger("clickstream.kafka.asked")
_SILENT.disabled = True


@dataclass(frozen=True)
class KafkaCluster:
    """Where a cluster is, and where what it takes to log in is; the file is read where a client is opened.

    Attributes:
        servers: HOST:PORT, several with commas between.
        config: A client properties file (TLS, SASL and whatever else librdkafka takes); only its path travels.
    """

    servers: str
    config: Path | None = None

    def client(self, kind: Callable[..., Client], settings: dict[str, Any], logger: logging.Logger = LOGGER) -> Client:
        """Open a client: a confluent-kafka class, with the file's properties and, above these, the settings.

        Raises:
            OptionError: The file cannot be read, or has a property that librdkafka refuses. No value is ever named.
        """
        common = {"bootstrap.servers": self.servers, "reconnect.backoff.max.ms": 2_000, "log.connection.close": False}
        properties = read_properties(self.config) if self.config else {}
        try:
            return kind({**properties, **common, **settings}, logger=logger)
        except (KafkaException, ValueError, TypeError) as error:
            # without its cause: librdkafka quotes the value, be it a password
            raise OptionError(_refused(error, self.config)) from None

    def topic(self, name: str, timeout: float = _REQUEST_SECONDS) -> TopicMetadata:
        """The topic as the cluster knows it.

        Raises:
            InputError: A `NoSuchTopicError`, or it must not be read; a `BrokerUnreachableError` where nobody answers
                within the timeout (seconds).
            OptionError: As from `client`.
        """
        said: list[KafkaError] = []
        # a consumer's question; any other client's makes brokers create the topic. What it logs is what is raised.
        asker = self.client(Consumer, {"group.id": "clickstream", "error_cb": said.append}, _SILENT)
        try:
            metadata = asker.list_topics(name, timeout=timeout)
        except KafkaException as error:
            asker.poll(0)
            raise unreachable(self.servers, _most_telling([*said, error.args[0]])) from error
        finally:
            asker.close()
        return known_topic(metadata, name, self.servers)


def known_topic(metadata: ClusterMetadata, name: str, servers: str) -> TopicMetadata:
    """The topic out of a cluster's metadata.

    Raises:
        InputError: A `NoSuchTopicError`, or it must not be read.
    """
    topic = metadata.topics.get(name)
    if topic is None or (topic.error and topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART):
        raise NoSuchTopicError(f"there is no topic {name} at {servers}")
    if topic.error and topic.error.code() == KafkaError.LEADER_NOT_AVAILABLE:
        raise unreachable(servers, topic.error)
    if topic.error:
        raise InputError(f"topic {name} at {servers} cannot be read: {topic.error.str()}")
    return topic


def unreachable(servers: str, error: KafkaError) -> InputError:
    """The error to raise where a request has failed: one that waiting may mend, unless it is the login that fails."""
    if error.code() == KafkaError._AUTHENTICATION:
        return InputError(f"Kafka at {servers} refuses the login: {error.str()}")
    return BrokerUnreachableError(f"Kafka at {servers} cannot be reached: {error.str()}")


def _most_telling(errors: list[KafkaError]) -> KafkaError:
    """A refused login, else the first that says more than that no broker is left."""
    login = [error for error in errors if error.code() == KafkaError._AUTHENTICATION]
    others = [error for error in errors if error.code() != KafkaError._ALL_BROKERS_DOWN]
    return (login or others or errors)[0]


def read_properties(path: Path) -> dict[str, str]:
    r"""Read a client properties file: a ``key=value`` a line, ``#`` before comments, ``\`` at a line's end to go on.

    The keys are librdkafka's, which are Java's for the most part; ``sasl.jaas.config`` gives its user and password.

    Raises:
        OptionError: The file cannot be read, or a line is none of these. Nothing of its content is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the Kafka client properties {path}: {type(error).__name__}") from None
    properties = {}
    number = 0
    for block in re.split(r"(?<!\\)\n", text):
        number += 1
        line = re.sub(r"\\\n\s*", "", block).strip()
        if line and line[0] not in "#!":
            key, equals, value = line.partition("=")
            if not equals or not key.strip():
                raise OptionError(f"{path}, line {number}: write it as key=value")
            properties[key.strip()] = value.strip()
        number += block.count("\n")
    jaas = properties.pop("sasl.jaas.config", None)
    if jaas is not None:
        login = {name: re.sub(r"\\(.)", r"\1", double or single) for name, double, single in _JAAS_LOGIN.findall(jaas)}
        if set(login) != {"username", "password"}:
            raise OptionError(f"{path}: sasl.jaas.config must hold a username and a password, both in quotes")
        properties |= {f"sasl.{name}": value for name, value in login.items()}
    return properties


def commit_offsets(consumer: Any, topic: str, offsets: dict[int, int]) -> None:
    """Tell the cluster how far a consumer's group has come, for who watches its lag. Nothing depends on it."""
    try:
        consumer.commit(offsets=[TopicPartition(topic, p, o) for p, o in offsets.items()], asynchronous=True)
    except (KafkaException, RuntimeError) as error:  # the latter where the consumer has been closed meanwhile
        LOGGER.info("offsets were not committed: %s", error)


def _refused(error: Exception, path: Path | None) -> str:
    """What is wrong with a client's configuration, without a value of it."""
    reason = error.args[0] if error.args else ""
    name = _PROPERTY_NAME.search(reason.str() if isinstance(reason, KafkaError) else str(reason))
    what = f"the Kafka client refuses or misses {name[1] or name[2] if name else 'a property'}"
    return f"{path}: {what}" if path else what
