"""Beam is loaded without what it has for Google Cloud and MongoDB, and nothing else is kept from it or from others."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from runners.load_beam import load_beam
load_beam(google_cloud=False)
from apache_beam.io.filesystems import FileSystems
print(sys.modules.keys() & {"google.auth", "google.cloud.storage", "apitools", "requests", "pymongo"})
print(FileSystems.exists("/"))
import google.auth, requests, apitools, pymongo, apache_beam.io.gcp.pubsub
"""


def test_beam_without_other_systems_reads_files_and_leaves_them_to_others() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\nTrue\n", "")
