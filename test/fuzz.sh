#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each. That a target was
# still busy when its time was over, which go test calls a failure, is none: what
# it finds it writes down.
set -euo pipefail
time=${1:-30s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while read -r file; do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(f \*testing\.F\).*/\1/p' "$file"); do
		echo "$(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$(dirname "$file")" 2>&1 | tee "$log" && continue
		if grep -q 'Failing input written' "$log" || ! grep -q '^    context deadline exceeded$' "$log"; then
			exit 1
		fi
		echo "its time was over"
	done
done < <(grep -rlE '^func Fuzz[A-Za-z0-9_]+\(f \*testing\.F\)' --include='*_test.go' . | sort)
