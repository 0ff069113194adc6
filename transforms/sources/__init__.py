"""Where raw events come from: files, Kafka, Pub/Sub; and the raw log that keeps what came."""
