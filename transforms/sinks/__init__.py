"""How tables reach the lake and the device store."""
