"""Imports flow one way, rules know nothing of Beam, and asking a store does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "schemas": set(),
    "stores": {"schemas"},
    "transforms": {"schemas", "stores"},
    "runners": {"schemas", "stores", "transforms"},
    "pipelines": {"schemas", "stores", "transforms", "runners"},
}
RULES = (
    "activities.property_types", "activities.refused_events", "activities.typed_events", "activities.typed_files",
    "events.duplicates", "events.envelope", "events.pages", "events.stored_events", "identity.devices",
    "identity.dimensions", "identity.merge_dimensions", "identity.stitching", "identity.users", "relationships", "runs",
    "sessions.cells", "sessions.panes", "sessions.policy", "sessions.session_state", "sessions.sessions",
    "sinks.held_work", "sources.compact_archive", "sources.raw_files",
)  # fmt: skip


SUBJECTS = {
    "sinks": set(),
    "events": {"sinks"},
    "sources": {"events"},
    "identity": {"sinks", "events"},
    "sessions": {"sinks", "events", "identity"},
    "session_dimension": {"sinks", "sessions"},
    "activities": {"sinks", "events"},
    "relationships": set(),
}
"""What the packages of transforms take from each other."""


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    above = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    found = {
        (path.name, name)
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in above
    }
    assert found == set()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_subject_of_transforms_imports_only_what_it_builds_on(subject: str) -> None:
    taken = {
        ".".join(name.split(".")[1:2])
        for path in (ROOT / "transforms" / subject).glob("*.py")
        for name in imported(path)
        if name.startswith("transforms.")
    }
    assert taken & set(SUBJECTS) - {subject} <= SUBJECTS[subject]


def test_every_subject_of_transforms_has_its_place() -> None:
    assert {path.parent.name for path in (ROOT / "transforms").glob("*/__init__.py")} == set(SUBJECTS)


@pytest.mark.parametrize("module", RULES)
def test_rule_does_not_import_beam(module: str) -> None:
    loaded = _loaded_by(f"transforms.{module}")
    assert f"transforms.{module}" in loaded
    assert "apache_beam" not in loaded


def test_asking_a_store_loads_no_beam() -> None:
    assert "apache_beam" not in _loaded_by("pipelines.cli", "pipelines.recent", "pipelines.ask", "stores.rocksdb_store")


def _loaded_by(*modules: str) -> set[str]:
    """Modules in memory once these are imported by a fresh interpreter."""
    code = f"import sys, {', '.join(modules)}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())
