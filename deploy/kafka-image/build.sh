#!/bin/bash
# Builds the images that the tests need, without an image registry:
#   build.sh kafka   a single Kafka broker        $FIVESTAGE_KAFKA_IMAGE (fivestage-kafka:4.3.1)
#   build.sh base    Debian with Python           $FIVESTAGE_BASE_IMAGE  (fivestage-base:latest)
#   build.sh build   the same with a C compiler   $FIVESTAGE_BUILD_IMAGE (fivestage-build:latest)
#   build.sh all     all three
#   build.sh libs    no image: copies the jars, prints their folder on stdout
# An image (or folder) made from the same inputs is kept. Root and a running Docker are needed for images.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FIVESTAGE_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/fivestage}
kafka_image=${FIVESTAGE_KAFKA_IMAGE:-fivestage-kafka:4.3.1}
base_image=${FIVESTAGE_BASE_IMAGE:-fivestage-base:latest}
build_image=${FIVESTAGE_BUILD_IMAGE:-fivestage-build:latest}
suite=bookworm
work=

say() { echo "build.sh: $*" >&2; }

cleanup() {
  if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
}
trap cleanup EXIT

# A Debian mirror that this machine already uses; empty when there is none (debootstrap has a default).
mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -v '^[[:space:]]*#' | grep -oE 'https?://[^[:space:]]+/debian/?([[:space:]]|$)' | tr -d '[:blank:]' | sed -n 1p || true
}

# One hash over all that goes into a target.
inputs() {
  (cd "$here" && sha256sum -- "$@" | sha256sum | cut -c 1-16)
}

built() { # image hash
  [[ $(docker image inspect -f '{{index .Config.Labels "fivestage.inputs"}}' "$1" 2>/dev/null) == "$2" ]]
}

libs() {
  local hash dir part
  hash=$(inputs pom.xml)
  dir=$cache/kafka-libs-$hash
  if [[ ! -d $dir ]]; then
    say "copying Kafka's jars to $dir"
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    if ! mvn -B -q -ntp -Dstyle.color=never -f "$here/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$part" >&2; then
      rm -rf "$part"
      say "Maven could not copy the jars"
      return 1
    fi
    chmod 755 "$part"
    mv -T "$part" "$dir" 2>/dev/null || rm -rf "$part" # another build was first
  fi
  echo "$dir"
}

# A small Debian in $work/$1 with the packages $2 (comma-separated).
debian() {
  local root=$work/$1 source
  source=$(mirror)
  mkdir -p "$cache/debs"
  say "debootstrap of $suite with $2"
  if ! debootstrap --variant=minbase --cache-dir="$cache/debs" --include="$2" "$suite" "$root" ${source:+"$source"} \
    >"$work/$1.log" 2>&1; then
    tail -n 20 "$work/$1.log" >&2
    return 1
  fi
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/locale/* \
    "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/etc/hostname "$root"/etc/resolv.conf
  find "$root/usr/share/doc" -type f ! -name copyright -delete
}

import() { # name image hash, then the arguments of docker import
  local name=$1 image=$2 hash=$3
  shift 3
  say "importing $image"
  tar -C "$work/$name" --numeric-owner -c . |
    docker import --change "LABEL fivestage.inputs=$hash" --change 'ENV LANG=C.UTF-8' "$@" - "$image" >/dev/null
}

fill_kafka() { # the folder of jars
  local root=$work/kafka name class
  mkdir -p "$root"/opt/kafka/{bin,config,libs} "$root"/etc/kafka/{docker,secrets} "$root"/mnt/shared/config \
    "$root"/var/lib/kafka/data
  cp "$1"/*.jar "$root/opt/kafka/libs/"
  cp "$here"/config/* "$root/etc/kafka/docker/"
  install -m 755 "$here/run.sh" "$root/etc/kafka/docker/run"
  install -m 755 "$here/kafka-run-class.sh" "$root/opt/kafka/bin/"
  while read -r name class; do
    printf '#!/bin/sh\nexec /opt/kafka/bin/kafka-run-class.sh %s "$@"\n' "$class" >"$root/opt/kafka/bin/$name.sh"
  done <"$here/tools.txt"
  chmod 755 "$root"/opt/kafka/bin/*.sh
  chroot "$root" useradd --uid 1000 --create-home --shell /usr/sbin/nologin appuser
  chroot "$root" chown -R appuser /opt/kafka/config /var/lib/kafka /mnt/shared/config /etc/kafka/secrets
}

# Keeps the classes that a broker loads as the JVM has them in memory (class data sharing): a start takes 2.2 s
# of CPU instead of 3.8 s.
keep_classes() {
  local box
  box=$(docker run --detach --env KAFKA_OPTS=-XX:ArchiveClassesAtExit=/tmp/kafka.jsa "$kafka_image")
  for _ in {1..120}; do
    if docker logs "$box" 2>&1 | grep -q 'Kafka Server started'; then break; fi
    sleep 0.5
  done
  docker stop --time 60 "$box" >/dev/null
  docker cp "$box:/tmp/kafka.jsa" "$work/kafka/opt/kafka/kafka.jsa" >&2
  docker rm --force --volumes "$box" >/dev/null
  docker image rm "$kafka_image" >/dev/null
}

import_kafka() { # hash
  import kafka "$kafka_image" "$1" --change 'USER appuser' --change 'WORKDIR /' --change 'EXPOSE 9092' \
    --change 'VOLUME ["/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"]' \
    --change 'CMD ["/etc/kafka/docker/run"]'
}

kafka() {
  local hash jars
  hash=$(inputs build.sh run.sh kafka-run-class.sh pom.xml tools.txt config/server.properties \
    config/log4j2.yaml config/tools-log4j2.yaml)
  if built "$kafka_image" "$hash"; then
    say "$kafka_image is up to date"
    return
  fi
  jars=$(libs)
  debian kafka openjdk-17-jre-headless
  fill_kafka "$jars"
  import_kafka unfinished
  keep_classes
  import_kafka "$hash"
}

python() { # name image packages
  local hash
  hash=$(inputs build.sh)
  if built "$2" "$hash"; then
    say "$2 is up to date"
    return
  fi
  debian "$1" "$3"
  import "$1" "$2" "$hash" --change 'CMD ["python3"]'
}

base() { python base "$base_image" python3,python3-venv,ca-certificates; }

build() { python build "$build_image" python3,python3-venv,ca-certificates,gcc,libc6-dev,python3-dev; }

main() {
  case ${1-} in
    kafka | base | build | all | libs) ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
  if [[ $1 == libs ]]; then
    libs
    return
  fi
  docker version >/dev/null 2>&1 || { say "no Docker daemon answers" && exit 1; }
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/fivestage-image.XXXXXX")
  case $1 in
    all)
      kafka
      base
      build
      ;;
    *) "$1" ;;
  esac
}

main "$@"
