#!/usr/bin/env bash
# The runner runs this before a job, as the job's user (ACTIONS_RUNNER_HOOK_JOB_STARTED). Where it does not exit with 0, GitHub
# marks the job as failed and runs none of its steps; the reason stands in the job's log under "Set up runner".
set -euo pipefail
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
python="${SPRINTBENCH_HYGIENE_PYTHON:-/opt/sprintbench/python}"
disk="${RUNNER_TEMP:-/tmp}"
mkdir -p "$disk"
if "$python" -I -S "$here/../hygiene.py" --gpus "${CUDA_VISIBLE_DEVICES:-}" --disk "$disk"; then
  echo "The GPU is fit for a job."
else
  code=$?
  echo "::error::This GPU is not fit for a job; the lines above say why. Mend the machine, then comment /retry."
  exit "$code"
fi
