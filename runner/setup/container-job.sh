#!/usr/bin/env bash
# One job in one container: ask the minter's container for a registration, use it up, run the job, end. The minter holds the
# credential and sees no job; this container holds none. They share the folder /exchange, one file at a time.
set -euo pipefail
exchange="${SPRINTBENCH_EXCHANGE:-/exchange}"
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
python="${SPRINTBENCH_HYGIENE_PYTHON:-/opt/sprintbench/python}"
"$python" -I -S "$here/hygiene.py" --disk "$PWD"
rm -f "$exchange/registration"
touch "$exchange/wanted"
until [[ -s $exchange/registration ]]; do sleep 1; done
"$python" -I -S "$here/job_folder.py" unpack --job "$PWD" --registration "$exchange/registration"
exec ./run.sh
