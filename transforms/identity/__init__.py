"""Who it was: devices, users, and whose an anonymous session is."""
