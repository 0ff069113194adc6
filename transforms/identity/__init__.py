"""Identity: dimensions of devices and users, and stitching of anonymous sessions to users."""
