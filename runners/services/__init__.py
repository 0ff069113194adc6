"""Services that a pipeline works beside, started on this machine: real ones, on the loopback, ready in seconds."""

from runners.services.flink import FlinkCluster
from runners.services.home import cache_home
from runners.services.kafka import KafkaService

__all__ = ["FlinkCluster", "KafkaService", "cache_home"]
