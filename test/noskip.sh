#!/bin/sh
# Reads the log of "go test -v" and fails unless every test in noskip.txt has
# passed: a test that skips in CI protects nobody. Other skips are shown.
set -eu
log=$1
list=$(dirname "$0")/noskip.txt
bad=0
while read -r name; do
	case $name in '' | '#'*) continue ;; esac
	grep -qE "^ *--- PASS: $name( |/)" "$log" || { echo "did not pass: $name"; bad=1; }
done <"$list"
grep -E '^ *--- SKIP' "$log" || echo "nothing was skipped"
exit $bad
