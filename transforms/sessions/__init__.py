"""From events to sessions: cells, sessions, panes, and the revision of stored sessions."""
