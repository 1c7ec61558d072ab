#!/bin/sh
# Prints the first Python that is new enough: $PYTHON, python3, then the versions by name.
for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
    [ "$python" != "${PYTHON:-}" ] || echo "set-up: PYTHON=$PYTHON is not Python 3.11 or newer: looking for another" >&2
done
echo "set-up: no Python 3.11 or newer: install python3 (Debian: apt install python3 python3-venv; macOS: brew install python), or name one: PYTHON=/path/to/python3 make" >&2
exit 1
