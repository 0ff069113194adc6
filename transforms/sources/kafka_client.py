"""Kafka clients: their configuration, their logging, and which of their errors end a run. No Beam."""

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
"""A client that cannot connect logs it continuously; one message of each kind is passed on in this time."""

_JAAS_LOGIN = re.compile(r'\b(username|password)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\')')
_PROPERTY_NAME = re.compile(r'(?:property:? ")([\w.]+)|\b((?:ssl|sasl)\.[\w.]+)')
_REQUEST_SECONDS = 5.0


class BrokerUnreachableError(InputError):
    """No broker answers. A worker waits and retries; a check before the start of a job fails."""


class NoSuchTopicError(InputError):
    """The cluster answers, but has no topic of that name."""


class _OncePer(logging.Filter):
    """Passes one message of each kind in `REPEAT_SECONDS`: a librdkafka kind such as FAIL, or a message of ours."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind: object = record.msg
        if isinstance(record.args, tuple) and len(record.args) == 3:
            kind = record.args[0]  # the arguments of librdkafka's messages: the kind, the client, the text
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
    """The address of a cluster, and the path of the file with its credentials.

    Attributes:
        servers: Comma-separated HOST:PORT of brokers.
        config: A client properties file (TLS, SASL and any other librdkafka property). It is read where a client is
            opened; only its path is pickled.
    """

    servers: str
    config: Path | None = None

    def client(self, kind: Callable[..., Client], settings: dict[str, Any], logger: logging.Logger = LOGGER) -> Client:
        """Open a client.

        Args:
            kind: The confluent-kafka class.
            settings: Properties that override those of the file.
            logger: Where the client logs.

        Raises:
            OptionError: The file cannot be read, or has a property that librdkafka refuses. The message never contains
                a value.
        """
        common = {"bootstrap.servers": self.servers, "reconnect.backoff.max.ms": 2_000, "log.connection.close": False}
        properties = read_properties(self.config) if self.config else {}
        try:
            return kind({**properties, **common, **settings}, logger=logger)
        except (KafkaException, ValueError, TypeError) as error:
            # without the cause, as librdkafka quotes the value, which may be a password
            raise OptionError(_refused(error, self.config)) from None

    def topic(self, name: str, timeout: float = _REQUEST_SECONDS) -> TopicMetadata:
        """Fetch a topic's metadata from the cluster, within `timeout` seconds.

        Raises:
            NoSuchTopicError: The topic does not exist.
            BrokerUnreachableError: No broker answers within the timeout.
            InputError: Access to the topic or the login is refused.
            OptionError: See `client`.
        """
        errors: list[KafkaError] = []
        # Only a consumer's request does not make brokers create the topic. Its log would repeat what is raised.
        consumer = self.client(Consumer, {"group.id": "clickstream", "error_cb": errors.append}, _SILENT)
        try:
            metadata = consumer.list_topics(name, timeout=timeout)
        except KafkaException as error:
            consumer.poll(0)
            raise unreachable(self.servers, _most_informative([*errors, error.args[0]])) from error
        finally:
            consumer.close()
        return known_topic(metadata, name, self.servers)


def known_topic(metadata: ClusterMetadata, name: str, servers: str) -> TopicMetadata:
    """Look up a topic in a cluster's metadata.

    Raises:
        NoSuchTopicError: The topic does not exist.
        BrokerUnreachableError: The topic has no leader at the moment.
        InputError: The topic cannot be read.
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
    """The error for a failed request: `BrokerUnreachableError`, which a retry may fix, unless the login is refused."""
    if error.code() == KafkaError._AUTHENTICATION:
        return InputError(f"Kafka at {servers} refuses the login: {error.str()}")
    return BrokerUnreachableError(f"Kafka at {servers} cannot be reached: {error.str()}")


def _most_informative(errors: list[KafkaError]) -> KafkaError:
    """The most informative error: a refused login, else the first that is not just `ALL_BROKERS_DOWN`."""
    login = [error for error in errors if error.code() == KafkaError._AUTHENTICATION]
    others = [error for error in errors if error.code() != KafkaError._ALL_BROKERS_DOWN]
    return (login or others or errors)[0]


def read_properties(path: Path) -> dict[str, str]:
    r"""Read a client properties file: ``key=value`` lines, ``#`` before comments, ``\`` to continue a line.

    The keys are librdkafka's, most of which equal Java's. Of ``sasl.jaas.config`` the username and password are used.

    Raises:
        OptionError: The file cannot be read, or a line is invalid. The message contains nothing of the file's content.
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
    """Commit a consumer group's offsets to the cluster, so that its lag can be monitored. Nothing depends on them."""
    try:
        consumer.commit(offsets=[TopicPartition(topic, p, o) for p, o in offsets.items()], asynchronous=True)
    except (KafkaException, RuntimeError) as error:  # RuntimeError if the consumer has been closed
        LOGGER.info("offsets were not committed: %s", error)


def _refused(error: Exception, path: Path | None) -> str:
    """Say which property of a client's configuration is wrong, without its value."""
    reason = error.args[0] if error.args else ""
    name = _PROPERTY_NAME.search(reason.str() if isinstance(reason, KafkaError) else str(reason))
    what = f"the Kafka client refuses or misses {name[1] or name[2] if name else 'a property'}"
    return f"{path}: {what}" if path else what
