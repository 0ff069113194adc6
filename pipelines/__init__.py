"""The command line and the pipelines that it starts."""
