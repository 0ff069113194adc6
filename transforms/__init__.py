"""The rules and steps that transform the data, from raw payloads to tables and stores."""
