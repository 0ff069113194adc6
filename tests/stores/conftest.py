"""The servers that device stores are held against: real ones, started once for all tests that ask for them."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable, Session

from runners.services.bigtable_emulator import BigtableEmulator
from runners.services.cassandra import CassandraService
from stores.cassandra_client import CLIENT_VARIABLE

# every node has this role until somebody changes it
USER = PASSWORD = "cassandra"
KEYSPACE = "Devices"


def need(*programs: str) -> None:
    """Skip the test where a program is missing; in CI, fail."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"needs {' and '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def bigtable_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An emulator's address."""
    need("go")
    emulator = BigtableEmulator(tmp_path_factory.mktemp("bigtable"))
    try:
        yield emulator.up()
    finally:
        emulator.down()


@pytest.fixture
def bigtable(bigtable_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an instance, without a table, whose emulator the client finds."""
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", bigtable_address)
    return "bigtable:project/instance"


@pytest.fixture(scope="session")
def cassandra_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate (PEM) of the node, beside the key store that has its key."""
    need("keytool")
    folder = tmp_path_factory.mktemp("certificate")
    store = ["-keystore", str(folder / "node.p12"), "-storepass", PASSWORD, "-alias", "node"]
    make = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=node", "-ext", "san=ip:127.0.0.1", "-storetype", "PKCS12"]
    show = ["-exportcert", "-rfc", "-file", str(folder / "node.pem")]
    for command in (make, show):
        subprocess.run(["keytool", *command, *store], check=True, capture_output=True)
    return folder / "node.pem"


@pytest.fixture(scope="session")
def cassandra_node(
    tmp_path_factory: pytest.TempPathFactory, cassandra_certificate: Path
) -> Iterator[tuple[str, CassandraService]]:
    """A node that asks for a login and may be talked to in the clear or not, with its address."""
    need("java", "mvn")
    encryption = {"enabled": True, "optional": True, "keystore_password": PASSWORD}
    encryption["keystore"] = str(cassandra_certificate.with_suffix(".p12"))
    node = CassandraService(
        tmp_path_factory.mktemp("cassandra"),
        {"authenticator": "PasswordAuthenticator", "client_encryption_options": encryption},
    )
    try:
        yield node.up(), node
    finally:
        # nobody wants its rows, which a polite end would write out first
        node.process.kill()
        node.down()


@pytest.fixture(scope="session")
def cassandra_address(cassandra_node: tuple[str, CassandraService]) -> str:
    """The address of the node."""
    return cassandra_node[0]


@pytest.fixture(scope="session")
def cassandra_session(cassandra_address: str) -> Iterator[Session]:
    """A session beside the store's, with an empty keyspace."""
    host, _, port = cassandra_address.rpartition(":")
    login = PlainTextAuthProvider(USER, PASSWORD)
    deadline = time.monotonic() + 60
    while True:
        with Cluster([host], port=int(port), protocol_version=4, auth_provider=login) as cluster:
            try:
                session = cluster.connect()
            except NoHostAvailable:
                # the node listens some time before it has made its first role
                if time.monotonic() > deadline:
                    raise
                continue
            session.execute(
                f'CREATE KEYSPACE "{KEYSPACE}" '
                "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
            )
            yield session
            return


@pytest.fixture
def cassandra_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client file, where the store looks for it."""
    path = tmp_path / "client.toml"
    path.write_text(f'username = "{USER}"\npassword = "{PASSWORD}"\n')
    monkeypatch.setenv(CLIENT_VARIABLE, str(path))
    return path


@pytest.fixture
def cassandra(cassandra_address: str, cassandra_session: Session, cassandra_login: Path) -> str:
    """The URI of a device store without rows."""
    for table in cassandra_session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", [KEYSPACE]
    ):
        cassandra_session.execute(f'TRUNCATE "{KEYSPACE}".{table.table_name}')
    return f"cassandra:{cassandra_address}/{KEYSPACE}"
