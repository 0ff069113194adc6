"""Sources of raw events (files, Kafka, Pub/Sub), and the raw log that archives the records of a bus."""
