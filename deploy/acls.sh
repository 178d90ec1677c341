#!/bin/bash
# The rights that fivestage needs in Kafka, and no others: to read its queries as its group, and to write its
# four output topics. It creates, alters and deletes nothing; topics are made beforehand.
#   deploy/acls.sh PRINCIPAL [OPTIONS OF KAFKA-ACLS...]
#   deploy/acls.sh User:fivestage --bootstrap-server broker:9093 --command-config admin.properties
# FIVESTAGE_* variables name the topics and the group where they are not the defaults, several topics of queries
# with commas in between; REMOVE=1 takes the rights back; KAFKA_ACLS is the tool, where it is not kafka-acls.sh on
# the PATH.
set -euo pipefail

if (($# == 0)) || [[ $1 == -* ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
principal=$1
shift

tool=${KAFKA_ACLS:-kafka-acls.sh}
group=${FIVESTAGE_KAFKA__GROUP_ID:-fivestage}
IFS=', ' read -ra queries <<<"${FIVESTAGE_TOPICS__QUERIES:-fivestage.queries}"
outputs=(
  "${FIVESTAGE_TOPICS__STAGE_RESULTS:-fivestage.stage-results}"
  "${FIVESTAGE_TOPICS__RESULTS:-fivestage.results}"
  "${FIVESTAGE_TOPICS__TIMEOUTS:-fivestage.timeouts}"
  "${FIVESTAGE_TOPICS__DEAD_LETTERS:-fivestage.dead-letters}"
)
what=(--add)
if [[ ${REMOVE-} == 1 ]]; then what=(--remove --force); fi
# To Kafka a literal * is every name; anything longer is just that name.
for name in "$group" "${queries[@]}" "${outputs[@]}"; do
  if [[ $name == "*" ]]; then
    echo "acls.sh: * stands for all topics or groups: name one" >&2
    exit 2
  fi
done
# A pattern or a list in JSON would be taken for a name, and the rights would be to nothing.
if [[ ${queries[0]} == [\^[]* ]]; then
  echo "acls.sh: FIVESTAGE_TOPICS__QUERIES: name the topics, with commas in between" >&2
  exit 2
fi
common=("${what[@]}" --allow-principal "$principal" --resource-pattern-type literal)

# Read and Write bring Describe with them. DescribeConfigs tells how large a record a topic takes.
"$tool" "$@" "${common[@]}" --operation Read --group "$group" "${queries[@]/#/--topic=}"
"$tool" "$@" "${common[@]}" --operation Write --operation DescribeConfigs "${outputs[@]/#/--topic=}"
