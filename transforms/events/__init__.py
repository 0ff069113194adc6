"""From raw payloads to events: decode, deduplicate, add page keys, write."""
