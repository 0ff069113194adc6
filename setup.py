"""Beam stages this file to remote workers; everything it needs to know is in pyproject.toml."""

from setuptools import setup

setup()
