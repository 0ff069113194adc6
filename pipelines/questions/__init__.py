"""Questions that the source documents ask of sessions and activities, each a SELECT in a file of its name."""
