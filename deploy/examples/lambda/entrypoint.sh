#!/bin/sh
# Starts a function as warm workers, or without a broker as before. Arguments: the image's own entry point, and its arguments.
set -eu

# AWS has set the first one; without a broker's address, the image's entry point starts its emulator.
if [ -n "${AWS_LAMBDA_RUNTIME_API:-}" ] || [ -z "${BROKER_URL:-}" ]; then
  exec "$@"
fi
: "${AWS_LAMBDA_FUNCTION_NAME:?is the name that callers use}"
pool="${POOL:-$AWS_LAMBDA_FUNCTION_NAME/${AWS_LAMBDA_FUNCTION_VERSION:-\$LATEST}/0/0}"
exec pilotlight worker --broker "$BROKER_URL" --pool "$pool" --slots "${SLOTS:-1}" --timeout "${TIMEOUT:-15m}" --runtime-api -- "$@"
