#!/bin/bash
# Finds an interpreter: bash .ci/python.sh 3.13 prints the path of one that can make environments, or fails.
# Looks on PATH, then where pyenv keeps its versions. A pyenv shim is on PATH also where nothing is behind it,
# so each one found is run.
set -euo pipefail
version=${1:?usage: python.sh VERSION}

suits() { # interpreter
  "$1" - "$version" <<'END' 2>/dev/null
import ensurepip, sys, sysconfig, venv
right = "{}.{}".format(*sys.version_info) == sys.argv[1] and sys.implementation.name == "cpython"
sys.exit(0 if right and not sysconfig.get_config_var("Py_GIL_DISABLED") else 1)
END
}

mapfile -t found < <(type -ap "python$version" || true)
found+=("${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/"python$version")
for interpreter in "${found[@]}"; do
  if [[ -x $interpreter ]] && suits "$interpreter"; then
    echo "$interpreter"
    exit 0
  fi
done
echo "python.sh: no Python $version that can make environments, on PATH or with pyenv" >&2
exit 1
