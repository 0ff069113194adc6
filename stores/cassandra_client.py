"""The connection to a Cassandra cluster: login, encryption, and one-line errors."""

import os
import ssl
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cassandra import ConsistencyLevel, DriverException, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory

from schemas.errors import OptionError, StoreError, first_line
from stores.networked_store import PATIENCE

CLIENT_VARIABLE = "CLICKSTREAM_CASSANDRA_CLIENT"
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class ClientFile:
    """A client's credentials, from a TOML file so that they are not in a URI or in a job's options.

    Attributes:
        username: The role to log in as; None if the cluster requires no login.
        password: The role's password.
        ca_file: PEM file of the certificate authorities that sign the nodes' certificates. If given, the connection is
            encrypted.
        certificate_file: PEM file of the client's own certificate, if the nodes require one.
        key_file: PEM file of the client certificate's key.
        datacenter: The nearest data centre; None for that of the first node that answers.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    datacenter: str | None = None

    @classmethod
    def find(cls) -> "ClientFile":
        """Load the file that CLICKSTREAM_CASSANDRA_CLIENT names; if it is not set, no login and no encryption.

        Raises:
            OptionError: The file cannot be read, is not TOML, or has an unknown or invalid setting.
        """
        path = os.environ.get(CLIENT_VARIABLE)
        if not path:
            return cls()
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError(f"{CLIENT_VARIABLE}: cannot read {path}: {error.strerror}") from error
        except ValueError:
            # the error would quote the file
            raise OptionError(f"{CLIENT_VARIABLE}: {path} is not a TOML file") from None
        unknown = sorted(settings.keys() - cls.__dataclass_fields__.keys())
        if unknown or not all(isinstance(value, str) for value in settings.values()):
            known = ", ".join(cls.__dataclass_fields__)
            raise OptionError(f"{CLIENT_VARIABLE}: {path} may hold {known}, each a text")
        if ("username" in settings) != ("password" in settings):
            raise OptionError(f"{CLIENT_VARIABLE}: {path} must hold a username and a password, or neither")
        return cls(**settings)

    def login(self) -> PlainTextAuthProvider | None:
        """The login, or None without one."""
        return PlainTextAuthProvider(self.username, self.password) if self.username is not None else None

    def encryption(self) -> ssl.SSLContext | None:
        """The TLS context, or None for an unencrypted connection.

        Raises:
            OptionError: A certificate or key cannot be used.
        """
        if self.ca_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except OSError as error:
            raise OptionError(f"{CLIENT_VARIABLE}: a certificate or key cannot be used: {error.strerror}") from error
        return context


def open_cluster(addresses: Sequence[tuple[str, int]]) -> Cluster:
    """A cluster, not connected yet, given any of its nodes. Requests use a quorum of the nearest data centre.

    Raises:
        OptionError: The client file cannot be used.
    """
    client = ClientFile.find()
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(client.datacenter or "")),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=PATIENCE,
        row_factory=tuple_factory,
    )
    return Cluster(
        list(addresses),
        port=addresses[0][1],
        # version 5 adds checksums, computed in Python, which make a write a tenth slower
        protocol_version=4,
        auth_provider=client.login(),
        ssl_context=client.encryption(),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=_CONNECT_SECONDS,
        control_connection_timeout=_CONNECT_SECONDS,
    )


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Convert the driver's errors to a one-line StoreError.

    Raises:
        StoreError: The driver raised an error.
    """
    try:
        yield
    except (DriverException, NoHostAvailable) as error:
        raise StoreError(f"{where}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """A driver error in one line; if no node could be reached, the first node's error."""
    first = error
    if isinstance(error, UnresolvableContactPoints):
        return "no such host"
    if isinstance(error, NoHostAvailable) and error.errors:
        first = next(iter(error.errors.values()))
    return first_line(first)
