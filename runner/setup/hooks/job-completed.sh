#!/usr/bin/env bash
# The runner runs this after a job, as the job's user (ACTIONS_RUNNER_HOOK_JOB_COMPLETED). It reports and never fails: the job's
# result stands. Whether the GPU may take another job is decided before the next registration, by root (bench-minter).
set -euo pipefail
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
python="${SPRINTBENCH_HYGIENE_PYTHON:-/opt/sprintbench/python}"
if ! "$python" -I -S "$here/../hygiene.py" --gpus "${CUDA_VISIBLE_DEVICES:-}" --temperature-c 95 --patience-s 20; then
  echo "::warning::This job left its GPU unfit; the lines above say how. No runner takes a job on it until that has passed."
fi
if [[ -n "${SPRINTBENCH_SPOOL:-}" && -d "$SPRINTBENCH_SPOOL" ]]; then
  echo "In the spool: $(find "$SPRINTBENCH_SPOOL" -mindepth 1 -maxdepth 1 -name 'week[0-9]*' | wc -l) results."
fi
