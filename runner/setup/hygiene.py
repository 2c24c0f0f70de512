"""Is a GPU fit for a job: alone, its memory free, cool, unhindered, without a fault in the kernel's log, with room on the disk?

Standard library alone, and run with `python -I -S`: by root before a runner is registered, by the job's user before each job.
Exit code 0 where it is fit, 78 (EX_CONFIG) where not, with every reason on stderr. A question that gets no answer is a reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

UNFIT = 78
FIELDS = ("uuid", "pci.bus_id", "temperature.gpu", "memory.used", "persistence_mode", "clocks_event_reasons.hw_slowdown")
# Faults of the program that ran, not of the GPU, by NVIDIA's list of Xid errors: graphics exception, page fault, reset channel,
# stopped by its owner. The next job is not affected. Every other Xid asks for a reset, a reboot or a new card.
OF_THE_PROGRAM = frozenset({13, 31, 43, 45})
XID = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f]+)[.0-9]*\): (\d+)")


class Unanswered(Exception):
    """A tool that is missing, fails or hangs; the text says which and what to do."""


def ask(command: Sequence[str], within_s: float) -> str:
    """What a command prints. A hanging driver leaves nvidia-smi where even SIGKILL cannot reach it, so nobody waits for its end."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        except OSError as error:
            raise Unanswered(f"{command[0]} cannot be run: {error.strerror}. Is the NVIDIA driver installed?") from error
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Unanswered(f"{command[0]} gave no answer within {within_s:g} s: it hangs. See journalctl -k, then reboot") from error
        said.seek(0)
        complained.seek(0)
        output = said.read().decode(errors="replace")
        if code != 0:
            words = plain((output + complained.read().decode(errors="replace")).strip().partition("\n")[0])
            raise Unanswered(f"{command[0]} failed (exit code {code}): {words or 'it said nothing'}")
        return output


def plain(text: str) -> str:
    """Text of others, with everything out of it that a log of GitHub Actions would take for a command."""
    return re.sub(r"[^A-Za-z0-9 ._,;/()+%=-]", "", text)[:160].strip()


def gpu_faults(wanted: Sequence[str], most_mib: int, most_c: int, within_s: float, kernel_log: bool) -> list[str]:
    """Why the GPUs `wanted` (UUIDs; none: all) are not fit."""
    answer = ask(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"], within_s)
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    if not rows or any(len(row) != len(FIELDS) for row in rows):
        return ["nvidia-smi shows no GPU" if not rows else "nvidia-smi answered in an unknown form: is the driver older than 535?"]
    faults = [f"{uuid} is not there: it fell off the bus, or was never here" for uuid in wanted if uuid not in {row[0] for row in rows}]
    buses = {}
    for uuid, bus, temperature, memory, persistence, slowdown in rows:
        if wanted and uuid not in wanted:
            continue
        buses[bus.lower()[-12:-2]] = uuid  # 00000000:1B:00.0 in nvidia-smi, 0000:1b:00 in the kernel's log
        for value, most, unit, what in ((temperature, most_c, "C", "hot"), (memory, most_mib, "MiB", "holding memory")):
            if not value.isdecimal():
                faults.append(f"{uuid}: nvidia-smi cannot say how much it is {what} ({plain(value)})")
            elif int(value) > most:
                faults.append(f"{uuid} is {what}: {value} {unit}, and at most {most} {unit} are allowed before a job")
        if persistence != "Enabled":
            faults.append(f"{uuid}: persistence mode is off. Turn it on: systemctl enable --now nvidia-persistenced, or nvidia-smi -pm 1")
        if slowdown == "Active":
            faults.append(f"{uuid} is slowed down by its hardware: look at its cooling and its power supply")
    faults += strangers(set(buses.values()), within_s)
    if kernel_log:
        faults += kernel_faults(buses, within_s)
    return faults


def strangers(uuids: set[str], within_s: float) -> list[str]:
    """Processes that compute on the GPUs; before a job there are none."""
    answer = ask(["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader"], within_s)
    found = [[cell.strip() for cell in line.split(",", 2)] for line in answer.splitlines() if line.count(",") >= 2]
    return [f"{uuid} is in use by process {plain(pid)} ({plain(name)}): end it" for uuid, pid, name in found if uuid in uuids]


def kernel_faults(buses: dict[str, str], within_s: float) -> list[str]:
    """Xid errors of the GPUs since the machine started, but those of programs. `buses` maps 0000:1b:00 to a UUID."""
    log = ask(["journalctl", "--dmesg", "--boot", "--no-pager", "--output=cat"], within_s)
    found = {(buses[bus.lower()], int(number)) for bus, number in XID.findall(log) if bus.lower() in buses}
    return [f"{uuid}: Xid {number} in the kernel's log since the last start. Look it up, then reset the GPU and reboot"
            for uuid, number in sorted(found) if number not in OF_THE_PROGRAM]


def disk_faults(place: Path, least_gib: float) -> list[str]:
    try:
        free, files = shutil.disk_usage(place).free, os.statvfs(place)
    except OSError as error:
        return [f"{place} cannot be looked at: {error.strerror}"]
    faults = [] if free >= least_gib * 2**30 else [f"{place} has {free / 2**30:.1f} GiB free, and {least_gib:g} GiB are needed"]
    if files.f_files and files.f_favail < 0.05 * files.f_files:  # btrfs counts none
        faults.append(f"{place} has {files.f_favail} of {files.f_files} inodes left: remove small files")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--gpus", default="", metavar="UUID[,UUID]", help="GPUs to look at, as in CUDA_VISIBLE_DEVICES; all if not given")
    parser.add_argument("--disk", type=Path, default=Path("/"), metavar="DIR", help="where jobs write [/]")
    parser.add_argument("--disk-gib", type=float, default=20, metavar="N", help="free space that has to be there [20]")
    parser.add_argument("--memory-mib", type=int, default=200, metavar="N", help="GPU memory that may be in use [200]")
    parser.add_argument("--temperature-c", type=int, default=60, metavar="N", help="how warm the GPU may be [60]")
    parser.add_argument("--within-s", type=float, default=20, metavar="N", help="how long a question may take [20]")
    parser.add_argument("--patience-s", type=float, default=0, metavar="N", help="how long to wait until it is fit, as after a job [0]")
    parser.add_argument("--kernel-log", action="store_true", help="look for Xid errors too; reading that log takes root")
    said = parser.parse_args(arguments)
    deadline = time.monotonic() + said.patience_s
    while True:
        faults = disk_faults(said.disk, said.disk_gib)
        try:
            wanted = [uuid for uuid in said.gpus.split(",") if uuid]
            faults += gpu_faults(wanted, said.memory_mib, said.temperature_c, said.within_s, said.kernel_log)
        except Unanswered as reason:
            faults.append(str(reason))
        if not faults or time.monotonic() >= deadline:
            break
        time.sleep(min(5, said.patience_s))
    for fault in faults:
        sys.stderr.write(f"unfit: {fault}\n")
    return UNFIT if faults else 0


if __name__ == "__main__":
    sys.exit(main())
