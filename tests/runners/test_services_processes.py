"""Processes that outlive their starter, and jars that Maven resolves."""

import json
import os
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from runners.flink.job_server import PATCHES
from runners.flink.job_server import POM as JOB_SERVER
from runners.services.jars import java, resolve_jars
from runners.services.processes import DetachedProcess, birth_of, free_port, listens
from schemas.errors import ServiceError

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]
POM = Path(__file__).parents[2] / "runners" / "services" / "kafka.pom.xml"


@pytest.fixture
def process(tmp_path: Path) -> DetachedProcess:
    return DetachedProcess("sleeper", tmp_path / "state")


def test_process_is_found_again_by_its_file_and_stopped(process: DetachedProcess) -> None:
    process.start(SLEEP)
    again = DetachedProcess("sleeper", process.folder)
    pid = again.pid
    assert pid == process.pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)
    again.wait_until(lambda: process.log.read_text() == "here\n", 30)
    again.stop()
    assert birth_of(pid) is None
    assert process.pid is None
    process.stop()


def test_process_that_does_not_listen_is_killed(process: DetachedProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.services.processes.STOP_SECONDS", 0.2)
    process.start(DEAF)
    process.wait_until(lambda: "deaf" in process.log.read_text(), 30)
    process.stop()
    assert process.pid is None


def test_id_that_another_process_has_by_now_is_left_alone(process: DetachedProcess) -> None:
    process.folder.mkdir()
    recorded = {"pid": os.getpid(), "birth": "long ago"}
    (process.folder / "sleeper.pid").write_text(json.dumps(recorded))
    assert process.pid is None
    process.kill()  # would end this test
    process.stop()


def test_process_that_ends_at_start_shows_the_end_of_its_log_in_one_line(process: DetachedProcess) -> None:
    process.start([sys.executable, "-c", "import time; print('first'); print('why', flush=True); time.sleep(0.2)"])
    with pytest.raises(ServiceError, match=r"^sleeper ended while it started; its log .* ends: first \| why$"):
        process.wait_until(lambda: False, 30)


def test_process_that_never_answers_is_given_up(process: DetachedProcess) -> None:
    process.start(SLEEP)
    with pytest.raises(ServiceError, match="did not answer within 0 s"):
        process.wait_until(lambda: False, 0)
    process.stop()


def test_free_port_is_none_that_the_system_gives_to_clients() -> None:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    port = free_port()
    assert 1024 < port < int(first)
    assert not listens(f"127.0.0.1:{port}")


def test_missing_maven_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKSTREAM_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServiceError, match=r"Maven .* is not installed"):
        resolve_jars(POM)
    assert capsys.readouterr().err == "resolving the jars of kafka with Maven, once; this may take some minutes\n"


def test_missing_java_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ServiceError, match="a JDK of Java 17 or newer is needed, and no java "):
        java()


def test_missing_compiler_is_said(java: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="a JDK of Java 17 or newer is needed, and no javac "):
        resolve_jars(JOB_SERVER, PATCHES)
    assert [path.name for path in (tmp_path / "home/cache/jars").iterdir()] == [".lock"]


def test_patch_that_does_not_compile_is_said_in_one_line_and_leaves_nothing(
    java: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKSTREAM_HOME", str(tmp_path / "home"))
    patch = tmp_path / "Broken.java"
    patch.write_text("class Broken { int one = two; int three = four; }\n")
    with pytest.raises(ServiceError, match=r"^javac cannot compile the patches: .*Broken.java:1: ") as refusal:
        resolve_jars(POM, [patch])
    assert "\n" not in str(refusal.value)
    assert [path.name for path in (tmp_path / "home/cache/jars").iterdir()] == [".lock"]


def test_patches_come_before_the_jars_that_they_mend(java: None) -> None:
    first, *others = resolve_jars(JOB_SERVER, patches=PATCHES)
    mended = set(ZipFile(first).namelist()) & {name for jar in others for name in ZipFile(jar).namelist()}
    assert {Path(name).name for name in mended if name.endswith(".class")} == {
        "BundleCheckpointHandlers.class",
        "BundleCheckpointHandlers$StateAndTimerBundleCheckpointHandler.class",
    }


def test_what_maven_cannot_resolve_is_said_and_leaves_nothing(
    java: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKSTREAM_HOME", str(tmp_path / "home"))
    pom = tmp_path / "pom.xml"
    pom.write_text(POM.read_text().replace("<version>1</version>", ""))
    with pytest.raises(ServiceError, match=r"^Maven cannot resolve pom.xml: ") as refusal:
        resolve_jars(pom)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in (tmp_path / "home/cache/jars").iterdir()] == [".lock"]
