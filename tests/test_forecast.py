"""The answer to --dry-run: whole texts, and which past runs say how long the next takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import WORKLOAD, stored

from bot.forecast import alike, dry_run
from workloads.spec import Request

FULL = Request("bench", "week01", dry_run=True)
OK = stored("ok")
SMOKE = stored("smoke")

TARGETS = """\
- compile speedup, best of three models >= 1.5 x
- compile speedup, worst of three models >= 1.2 x
- argmax agreement with eager, worst of three models >= 0.999
"""
UNKNOWN = "**Expected:** no past run with these options to say from. A run is stopped after 15 minutes.\n"


def test_a_full_run_with_a_past():
    runs = [OK, replace(OK, run="c1", duration_s=300.0), replace(OK, run="c2", duration_s=600.0), stored("crashed"), SMOKE]
    assert dry_run(WORKLOAD, FULL, runs) == f"""### week01 · dry run, nothing ran

`/bench week01` would measure PyTorch 2.x compile + profiling: 1 process on 1 GPU.

Its targets would be judged:

{TARGETS}
**Expected:** 6.2 GPU-minutes (6 min 12 s), the median of 3 past runs with these options, which took 5 min 00 s to 10 min 00 s. \
A run is stopped after 15 minutes.
"""


def test_a_smoke_run():
    request = replace(FULL, smoke=True)
    assert dry_run(WORKLOAD, request, [replace(SMOKE, duration_s=24.0)]) == f"""### week01 · dry run, nothing ran

`/bench week01 --smoke` would measure PyTorch 2.x compile + profiling: 1 process on the GPU machine's CPU.

Nothing of it would be judged (smoke run). The week's targets:

{TARGETS}
**Expected:** 24 s, as 1 past run with these options took. A run is stopped after 15 minutes.
"""


def test_a_batch_size_of_its_own_without_a_past():
    request = replace(FULL, batch=64, repeat=3, profile=True)
    assert dry_run(WORKLOAD, request, [OK]) == f"""### week01 · dry run, nothing ran

`/bench week01 --batch 64 --repeat 3 --profile` would measure PyTorch 2.x compile + profiling: 3 processes, one after another on \
1 GPU, with a profiler trace.

Nothing of it would be judged (batch size of its own). The week's targets:

{TARGETS}
{UNKNOWN}"""


def test_several_gpus_hold_several():
    both = replace(OK, machine=replace(OK.machine, gpus=2), request=replace(OK.request, gpus=2))
    text = dry_run(WORKLOAD, replace(FULL, gpus=2), [both])
    assert "1 process on 2 GPUs." in text
    assert "**Expected:** 12.4 GPU-minutes (6 min 12 s), as 1 past run with these options took." in text


@pytest.mark.parametrize("options", [{"smoke": True}, {"batch": 4}, {"gpus": 2}, {"repeat": 2}, {"profile": True}])
def test_other_options_take_other_times(options: dict[str, int]):
    assert alike(FULL, [OK]) == (OK,)
    assert alike(replace(FULL, **options), [OK]) == ()


def test_runs_that_say_nothing_of_the_time():
    assert alike(FULL, [stored("timeout"), replace(OK, machine=SMOKE.machine)]) == ()
    assert alike(replace(FULL, week="week02"), [OK]) == ()
    assert alike(replace(FULL, smoke=True), [SMOKE]) == (SMOKE,)
