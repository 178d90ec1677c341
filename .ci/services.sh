#!/bin/bash
# Makes a real Kafka broker obtainable for the tests, on a bare Debian as root:
#   exports=$(bash .ci/services.sh PIDFILE) && eval "$exports"
# Installs what is missing, starts dockerd when no daemon answers and builds the test images; where Docker
# can't be had, copies Kafka's jars instead. Prints export lines on stdout and all else on stderr.
# PIDFILE holds the id of the dockerd that was started here (stop that one), and is absent when none was.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pidfile=${1:?usage: services.sh PIDFILE}
build=$root/deploy/kafka-image/build.sh
wait_seconds=30

say() { echo "services.sh: $*" >&2; }

answers() { timeout 5 docker version >/dev/null 2>&1; }

install_missing() {
  local packages=() pair
  for pair in dockerd:docker.io docker:docker.io debootstrap:debootstrap kcat:kcat mvn:maven java:default-jre-headless; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
  done
  if ((${#packages[@]} == 0)); then return 0; fi
  say "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update >&2
  # newer releases of Debian have the client in a package of its own
  if [[ " ${packages[*]} " == *" docker.io "* ]] && apt-cache show docker-cli >/dev/null 2>&1; then
    packages+=(docker-cli)
  fi
  apt-get -q install -y --no-install-recommends "${packages[@]}" >&2
}

# A pid file whose process is gone keeps a new daemon from starting once its number is in use again.
drop_stale() { # pid-file name
  local pid status
  pid=$(cat "$1" 2>/dev/null) || return 0
  status=$(cat "/proc/$pid/status" 2>/dev/null) || status=
  if [[ $status != "Name:"*"$2"$'\n'* || $status == *"State:"*"(zombie)"* ]]; then rm -f "$1"; fi
}

stop_daemon() { # pid
  kill "$1" 2>/dev/null || true
  for _ in {1..100}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}

# Starts dockerd with the given flags and waits for it.
try_daemon() {
  local log pid until=$((SECONDS + 12))
  if ((SECONDS >= deadline)); then return 1; fi
  log=$(mktemp "${TMPDIR:-/tmp}/fivestage-dockerd.XXXXXX.log")
  drop_stale /var/run/docker.pid dockerd
  drop_stale /var/run/docker/containerd/containerd.pid containerd
  setsid dockerd "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  say "dockerd $* (process $pid, log $log)"
  while ((SECONDS < until && SECONDS < deadline)) && kill -0 "$pid" 2>/dev/null; do
    if answers; then
      echo "$pid" >"$pidfile"
      return 0
    fi
    sleep 0.2
  done
  tail -n 5 "$log" >&2
  stop_daemon "$pid"
  return 1
}

daemon() {
  rm -f "$pidfile"
  if answers; then return 0; fi
  command -v dockerd >/dev/null || return 1
  local deadline=$((SECONDS + wait_seconds)) plain=(--iptables=false --ip6tables=false)
  # the defaults, twice as remains of a killed daemon can be in the way; then without packet filters
  # (ports are still published); then on any file system
  try_daemon || try_daemon || try_daemon "${plain[@]}" || try_daemon "${plain[@]}" --storage-driver=vfs
}

images() {
  "$build" all >&2 && timeout 60 docker run --rm "${FIVESTAGE_BASE_IMAGE:-fivestage-base:latest}" true >&2
}

main() {
  local libs
  install_missing || say "not all packages could be installed"
  if daemon && images; then
    echo "export FIVESTAGE_KAFKA_IMAGE=${FIVESTAGE_KAFKA_IMAGE:-fivestage-kafka:4.3.1}"
    echo "export FIVESTAGE_BASE_IMAGE=${FIVESTAGE_BASE_IMAGE:-fivestage-base:latest}"
    echo "export FIVESTAGE_BUILD_IMAGE=${FIVESTAGE_BUILD_IMAGE:-fivestage-build:latest}"
    return 0
  fi
  say "no Docker here: the tests run Kafka from its jars"
  libs=$("$build" libs)
  printf 'export FIVESTAGE_KAFKA_LIBS=%q\n' "$libs"
}

main "$@"
