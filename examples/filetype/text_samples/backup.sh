#!/bin/bash
# Keep the last seven dumps of the tide database.
set -euo pipefail

readonly folder="${BACKUP_FOLDER:-/var/backups/tides}"
readonly stamp="$(date +%Y-%m-%d)"

log() {
  printf '%s %s\n' "$(date --iso-8601=seconds)" "$*" >&2
}

mkdir -p "$folder"
pg_dump --format=custom tides > "$folder/$stamp.dump.part"
mv "$folder/$stamp.dump.part" "$folder/$stamp.dump"

for old in $(ls -1t "$folder"/*.dump | tail -n +8); do
  log "removing $old"
  rm -f -- "$old"
done

if [[ ! -s "$folder/$stamp.dump" ]]; then
  log "the dump is empty"
  exit 1
fi
