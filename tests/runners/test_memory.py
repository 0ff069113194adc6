"""One heap for everything, and memory that is freed in scattered pieces goes back while the process goes on."""

import subprocess
import sys

import pytest

_SCATTERED = """
import time
from pathlib import Path
import numpy as np
from runners.memory import share_memory

def resident():
    return int(Path("/proc/self/statm").read_bytes().split()[1]) >> 8

before = resident()
share_memory(floor=(before + 220) << 20)
share_memory(floor=(before + 220) << 20)
blocks = [np.ones(1 << 20, np.uint8) for _ in range(400)]
kept = blocks[::10]
del blocks
# too large for any gap that is left
larger = [np.ones(20 << 20, np.uint8) for _ in range(8)]
needed = 40 + 8 * 20
deadline = time.monotonic() + 60
while resident() - before > needed + 40 and time.monotonic() < deadline:
    time.sleep(0.01)
print(resident() - before - needed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that keeps freed memory")
def test_scattered_free_memory_is_given_back_when_the_process_is_large() -> None:
    run = subprocess.run([sys.executable, "-c", _SCATTERED], check=True, capture_output=True, text=True)
    assert int(run.stdout) <= 40


def test_arrow_has_no_heap_of_its_own_in_the_command() -> None:
    code = "import pipelines.cli, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "system\n"
