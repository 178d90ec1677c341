#!/bin/bash
# Runs one Java class of Kafka, as the script of the same name in Kafka's own distribution does.
set -euo pipefail

read -r -a heap <<<"${KAFKA_HEAP_OPTS:--Xmx256M}"
# quick starts and little memory matter more here than peak throughput
read -r -a jvm <<<"${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true}"
read -r -a log <<<"${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=/etc/kafka/docker/tools-log4j2.yaml}"
read -r -a more <<<"${KAFKA_OPTS-}"

# in the same order each time: kept classes are used with the class path that they came from
printf -v jars '%s:' /opt/kafka/libs/*.jar
# the classes that build.sh keeps; what the JVM says of them goes to stderr, since the tools' output is read
shared=(-Xlog:disable -Xlog:all=warning:stderr)
if [[ -f /opt/kafka/kafka.jsa ]]; then shared+=(-XX:SharedArchiveFile=/opt/kafka/kafka.jsa); fi

exec java "${heap[@]}" "${shared[@]}" "${jvm[@]}" "${log[@]}" "${more[@]}" -cp "${jars%:}" "$@"
