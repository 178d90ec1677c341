#!/bin/bash
# Start of the container: settings from KAFKA_* (or from a server.properties mounted in
# /mnt/shared/config), storage formatted once, then the broker as process 1.
set -euo pipefail

export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}

if [[ -z ${KAFKA_LISTENERS-} && -n ${KAFKA_ADVERTISED_LISTENERS-} && ${KAFKA_PROCESS_ROLES-} != controller ]]; then
  # shellcheck disable=SC2001  # a pattern, not a fixed text
  KAFKA_LISTENERS=$(sed -e 's|://[^:]*:|://0.0.0.0:|g' <<<"$KAFKA_ADVERTISED_LISTENERS")
  export KAFKA_LISTENERS
fi

if ! said=$(/opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup \
  --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config \
  --final-configs-dir /opt/kafka/config 2>&1) && ! grep -qi 'already formatted' <<<"$said"; then
  echo "$said" >&2
  exit 1
fi

export KAFKA_HEAP_OPTS=${KAFKA_HEAP_OPTS:--Xms128M -Xmx512M}
export KAFKA_LOG4J_OPTS=${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml}
exec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka /opt/kafka/config/server.properties
