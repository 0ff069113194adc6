"""From raw payloads to events: decoded, each once, with the key of their page."""
