"""Beam is loaded without what it has for Google Cloud, and nothing else is kept from it or from others."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from runners.load_beam import load_beam
load_beam(google_cloud=False)
from apache_beam.io.filesystems import FileSystems
print("google.auth" in sys.modules, "google.cloud.storage" in sys.modules)
print(FileSystems.exists("/"))
import google.auth
"""


def test_beam_without_google_cloud_reads_files_and_leaves_google_to_others() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("False False\nTrue\n", "")
