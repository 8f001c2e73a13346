# Sourced by the commands beside it: sets `root`, and `prepare`, which leaves the package installed in $root/.venv.
# Set PYTHON to choose the interpreter that a new .venv is made with.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The first interpreter that runs, is recent enough and can make virtual environments.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3 python; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    elif [ "$candidate" = "${PYTHON:-}" ]; then
      break # a wish that cannot be met is an error, not a reason to pick another one
    fi
  done
  echo "No Python >= 3.11 with the venv module was found${PYTHON:+ at PYTHON=$PYTHON}." \
    "Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

# prepare EXTRAS: make .venv if there is none, and install the package with EXTRAS ("" or "[test,docs]") in it,
# unless that was done since pyproject.toml and constraints.txt last changed.
prepare() {
  local extras=$1 python
  local done_mark="$root/.venv/.installed$extras"
  if ! [ -x "$root/.venv/bin/python" ]; then
    python=$(find_python)
    echo "Creating $root/.venv with $("$python" --version)"
    "$python" -m venv "$root/.venv"
  fi
  if ! [ "$done_mark" -nt "$root/pyproject.toml" ] || ! [ "$done_mark" -nt "$root/constraints.txt" ]; then
    echo "Installing scdiffusion$extras and its dependencies (some minutes the first time)"
    "$root/.venv/bin/python" -m pip install -qq -c "$root/constraints.txt" -e "$root$extras"
    touch "$done_mark"
  fi
}
