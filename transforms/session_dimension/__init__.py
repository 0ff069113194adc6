"""A user's sessions over all devices, numbered; and each event's place in them."""
