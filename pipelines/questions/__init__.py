"""Named questions about sessions and activities, each a SELECT in a file of its name."""
