"""Real services for a pipeline, started on this machine's loopback interface and ready in seconds."""

from runners.services.flink import FlinkCluster
from runners.services.home import cache_home
from runners.services.kafka import KafkaService

__all__ = ["FlinkCluster", "KafkaService", "cache_home"]
