"""The declarations of records, from which all schemas are derived."""
