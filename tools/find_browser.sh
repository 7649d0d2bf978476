#!/usr/bin/env bash
# Prints the Chromium that the browser tests drive: $CHROMIUM, else the first of these names that works; 1 when none does.
# Set-up and the tests both ask here, so that what set-up is content with is what the tests find.
limit=()
if command -v timeout >/dev/null; then limit=(timeout 20); fi
for each in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome google-chrome-stable; do
  path=$(command -v "$each")
  if [ -n "$path" ] && ${limit[@]+"${limit[@]}"} "$path" --version >/dev/null 2>&1; then
    echo "$path"
    exit 0
  fi
  if [ "$each" = "${CHROMIUM:-}" ]; then echo "CHROMIUM=$each is no browser that starts: looking for another" >&2; fi
done
exit 1
