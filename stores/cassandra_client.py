"""The connection to a Cassandra cluster: who logs in, by what certificates, and its errors in one line."""

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
    """What a client needs to be let in: a TOML file, so that none of it is in a URI or in a job's options.

    Attributes:
        username: The role that logs in; None where the cluster asks for none.
        password: Its password.
        ca_file: Certificates (PEM) of who may vouch for a node; given, the connection is encrypted.
        certificate_file: The client's own certificate (PEM), where nodes ask for one.
        key_file: Its key (PEM).
        datacenter: The nearest data centre; None for the one of the first node that answers.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    datacenter: str | None = None

    @classmethod
    def find(cls) -> "ClientFile":
        """The file that CLICKSTREAM_CASSANDRA_CLIENT names; without it, no login and no encryption.

        Raises:
            OptionError: The file cannot be read, is not TOML, or holds what is no setting.
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
        """The login, if there is one."""
        return PlainTextAuthProvider(self.username, self.password) if self.username is not None else None

    def encryption(self) -> ssl.SSLContext | None:
        """How to encrypt; None for not at all.

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
    """A cluster, not yet connected to, by any of its nodes. A quorum of the nearest data centre answers.

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
        # the next version adds checksums, computed in Python: a tenth more time a write
        protocol_version=4,
        auth_provider=client.login(),
        ssl_context=client.encryption(),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=_CONNECT_SECONDS,
        control_connection_timeout=_CONNECT_SECONDS,
    )


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Say in one line what the driver has to say.

    Raises:
        StoreError: The driver raised.
    """
    try:
        yield
    except (DriverException, NoHostAvailable) as error:
        raise StoreError(f"{where}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An error of the driver in one line; where no node could be reached, why the first of them could not."""
    first = error
    if isinstance(error, UnresolvableContactPoints):
        return "no such host"
    if isinstance(error, NoHostAvailable) and error.errors:
        first = next(iter(error.errors.values()))
    return first_line(first)
