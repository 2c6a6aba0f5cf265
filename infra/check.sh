#!/usr/bin/env bash
# The checks that a person, a pre-commit hook and CI run alike: `check.sh fast` or `check.sh all`.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }
step ruff format --check .
step ruff check .
step mypy --strict
step lint-imports
if [ "${1:-all}" = fast ]; then
    step python -m pytest -q -rs -m "not slow"
else
    step python -m pytest -q -rs --durations=15
fi
