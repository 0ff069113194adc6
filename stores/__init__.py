"""The lake, the device stores and the raw log."""
