"""Kafka: where records come from and go to. The only package that imports a Kafka client."""
