"""The service's Kafka side on a simulated Kafka, in virtual time: one seed is one schedule."""
