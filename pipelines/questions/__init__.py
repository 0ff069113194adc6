"""Questions that the source documents ask of sessions, each a SELECT in a file of its name."""
