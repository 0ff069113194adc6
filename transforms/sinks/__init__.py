"""Sinks: write tables to the lake and the device store."""
