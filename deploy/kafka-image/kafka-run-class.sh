#!/bin/bash
# Runs one Java class of Kafka, as the script of the same name in Kafka's own distribution does.
set -euo pipefail

read -r -a heap <<<"${KAFKA_HEAP_OPTS:--Xmx256M}"
# quick starts and little memory matter more here than peak throughput
read -r -a jvm <<<"${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true}"
read -r -a log <<<"${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=/etc/kafka/docker/tools-log4j2.yaml}"
read -r -a more <<<"${KAFKA_OPTS-}"

exec java "${heap[@]}" "${jvm[@]}" "${log[@]}" "${more[@]}" -cp '/opt/kafka/libs/*' "$@"
