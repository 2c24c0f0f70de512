"""From a bare machine to a runner: install.sh as root on a whole machine that is thrown away, and the units by systemd's own judges.

The machine is this one under an overlay, so that what the script leaves is exactly what it wrote. Stand-ins are few: the GPU, the
service manager, the clock, the network and the runner itself. User, folders, Python and pip are real.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_minter import REGISTER, ok, serve

slow = pytest.mark.slow  # each machine takes most of a minute: real virtual environments, and questions that hang

REPO = Path(__file__).resolve().parent.parent
SETUP = REPO / "runner" / "setup"
STAND_INS = REPO / "tests" / "cases" / "setup" / "stand-ins"
UNITS = sorted((SETUP / "systemd").glob("*.service"))
PYTHON = f"/usr/local/py/bin/python{sys.version_info.major}.{sys.version_info.minor}"
INSTALL = f"/srv/checkout/runner/setup/install.sh --repo octo-org/sprint --python {PYTHON}"

ZERO = "GPU-00000000-aaaa-bbbb-cccc-000000000000"

RUN_SH = "#!/bin/bash\necho this stands in for the runner\n"

# A project that pip builds without a network: its build backend is its own.
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = '''
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "sprintbench-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("sprintbench-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: sprintbench\\nVersion: 0.1.0\\n"
                       "Provides-Extra: gpu\\nProvides-Extra: week01\\n")
        wheel.writestr("sprintbench-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("sprintbench_marker.py", "")
        wheel.writestr("sprintbench-0.1.0.dist-info/RECORD", "")
    return name
'''

# Everything that is mounted here goes with the namespace.
MACHINE = r"""
set -euo pipefail
work=$1 python=$2 start=$3
mount -t tmpfs -o size=64g tmpfs "$work/disk"
mkdir "$work"/disk/{upper,inner,machine}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/disk/upper,workdir=$work/disk/inner" "$work/disk/machine"
cd "$work/disk/machine"
mount -t proc proc proc
for place in dev tmp run srv; do mount -t tmpfs tmpfs "$place"; done
for device in null:3 zero:5 random:8 urandom:9; do mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"; done
ln -s /proc/self/fd dev/fd
touch dev/nvidia-uvm
mkdir -p run/systemd/system run/state usr/local/py usr/local/stand-ins srv/checkout srv/report
mount --bind "$python" usr/local/py
mount -o remount,bind,ro usr/local/py
mount --bind "$work/stand-ins" usr/local/stand-ins
mount --bind "$work/checkout" srv/checkout
mount --bind "$work/report" srv/report
cp "$work/runner.tar.gz" "$work/steps.sh" srv
export PATH=/usr/local/stand-ins:/usr/sbin:/usr/bin:/sbin:/bin STAND_IN_STATE=/run/state STAND_IN_FILE=/run/gpu
unset PYTHONPATH PYTHONHOME
mount --bind "$work/disk/upper" srv/report/upper
eval "$start"
"""
STEPS = r"""
set -uo pipefail
# What was written to this machine's disk: kinds, modes, owners, times, links, and the bytes of every file.
tree() {
  cd /srv/report/upper
  find . -mindepth 1 -printf '%y %m %U %G %T@ %p %l\n' | sort -k 6
  find . -type f -exec sha256sum {} + | sort -k 2
  cd /
}
mkdir /run/given
printf -- '-----BEGIN RSA PRIVATE KEY-----\nsecret\n' >/run/given/app.pem
step() { # step NAME COMMAND...: its output and its exit code
  local name=$1; shift
  "$@" >"/srv/report/$name.log" 2>&1; echo $? >"/srv/report/$name.code"
  tree >"/srv/report/$name.tree"
}
"""

LAST_STEPS = """
cp -r /run/state /srv/report/state 2>/dev/null
chmod -R a+rX /srv/report/*.* /srv/report/state
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was left after the steps: logs, exit codes, trees and copies of files."""

    report: Path

    def code(self, step: str) -> int:
        return int((self.report / f"{step}.code").read_text())

    def log(self, step: str) -> str:
        return (self.report / f"{step}.log").read_text()

    def tree(self, step: str) -> str:
        return (self.report / f"{step}.tree").read_text()

    def paths(self, step: str) -> set[str]:
        """Files, links and folders of the tree, from the root."""
        return set(re.findall(r"^[dfl] \d+ \d+ \d+ [\d.]+ \.(\S+)", self.tree(step), re.MULTILINE))


def as_root() -> list[str]:
    """How to get what only root may: nothing, sudo, or the reason for a skip, which CI does not take."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive", "--preserve-env=PATH"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    why = "install.sh is for root, and this user cannot become it"
    assert os.environ.get("CI") != "true", why
    pytest.skip(why)


def tool(name: str, package: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if path is None:
        why = f"no {name} here: apt-get install -y {package}"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    return path


def runner_tarball(path: Path, run_sh: str) -> str:
    """Something like the Actions runner; its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("run.sh", run_sh), ("bin/Runner.Listener", "#!/bin/sh\n"), ("externals/node", "")):
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode, entry.uid = len(content), 0o755, 1001
            archive.addfile(entry, io.BytesIO(content.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lay_out(work: Path, steps: str, run_sh: str = RUN_SH) -> None:
    """The machine's parts in `work`, and its steps. In them $SHA is the checksum of the runner that this network has."""
    for name in ("disk", "report/upper"):
        (work / name).mkdir(parents=True)
    shutil.copytree(STAND_INS, work / "stand-ins")
    checkout = work / "checkout"
    shutil.copytree(SETUP, checkout / "runner" / "setup")
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "constraints.txt").write_text("")
    sha = runner_tarball(work / "runner.tar.gz", run_sh)
    (work / "steps.sh").write_text(f"SHA={sha}\n{STEPS}\n{steps}\n{LAST_STEPS}")


Play = Callable[[str], Machine]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Runs steps on a fresh machine."""
    sudo = as_root()

    def played(steps: str) -> Machine:
        work = tmp_path_factory.mktemp("machine")
        lay_out(work, steps)
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", MACHINE, "machine", str(work), sys.base_prefix]
        command.append("chroot . /bin/bash /srv/steps.sh")
        done = subprocess.run([*sudo, *command], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return Machine(work / "report")

    return played


def registration(**files: str) -> str:
    names = files or {"runner": '{"ephemeral": true}', "credentials": "{}", "credentials_rsaparams": "{}"}
    return b64encode(json.dumps({f".{name}": b64encode(text.encode()).decode() for name, text in names.items()}).encode()).decode()


@pytest.fixture(scope="module")
def installed(play: Play) -> Machine:
    """Installed, installed again, changed, used for a job, judged, removed."""
    return play(rf"""
FROM="--runner-version 2.999.0 --runner-sha256 $SHA"
step dry {INSTALL} --app-id 123 --app-key /run/given/app.pem $FROM --dry-run
step first {INSTALL} --app-id 123 --app-key /run/given/app.pem $FROM
cp -r /etc/sprintbench /etc/systemd/system/bench-runner@1.service.d /etc/systemd/system/bench-minter@.service.d /srv/report
stat -c '%a %U %n' /etc/sprintbench/github.cred /var/spool/sprintbench /var/lib/sprintbench/jobs/0 >/srv/report/owners
/opt/sprintbench/venv/bin/python -c 'import sprintbench_marker'; echo $? >/srv/report/venv.code
getent passwd sprintbench >/srv/report/passwd
step again {INSTALL} --app-id 123 --app-key /run/given/app.pem $FROM
step without_the_key {INSTALL} --app-id 123 $FROM

mkdir -p /run/sprintbench-0
echo {registration()} >/run/sprintbench-0/registration
prepare=$(sed -z 's/\\\n//g' /etc/systemd/system/bench-runner@.service | sed -n 's/^ExecStartPre=+//p' | sed 's/%i/0/g; s,%t,/run,g')
step prepared $prepare
(cd /var/lib/sprintbench/jobs/0 && find . -printf '%m %U %p\n' | sort -k 3) >/srv/report/job
ls -A /run/sprintbench-0 >/srv/report/registration-left
PATH=/usr/bin:/bin step verified systemd-analyze verify --man=no bench-minter@0.service bench-runner@0.service
for unit in bench-minter@0 bench-runner@0; do
  PATH=/usr/bin:/bin step "security-$unit" systemd-analyze security --no-pager --offline=true --threshold=30 "$unit.service"
done
as_the_job="runuser -u sprintbench -- env RUNNER_TEMP=/var/spool/sprintbench/tmp CUDA_VISIBLE_DEVICES={ZERO}"
step hook $as_the_job /opt/sprintbench/hooks/job-started.sh
echo stray >/run/gpu
step refusing $as_the_job /opt/sprintbench/hooks/job-started.sh
hooks=/opt/sprintbench/hooks
sed 's/--patience-s 20/--patience-s 1/' $hooks/job-completed.sh >$hooks/in-haste.sh  # a test need not wait for the GPU to come to rest
chmod +x $hooks/in-haste.sh
step afterwards $as_the_job SPRINTBENCH_SPOOL=/var/spool/sprintbench $hooks/in-haste.sh
rm $hooks/in-haste.sh
rm /run/gpu
empty=$(sed -n 's/^ExecStopPost=+//p' /etc/systemd/system/bench-runner@.service | sed 's/%i/0/g')
step emptied $empty
ls -A /var/lib/sprintbench/jobs/0 >/srv/report/job-left

step one_gpu {INSTALL} --app-id 123 --gpu 0 --labels gpu,h100 $FROM
ls /etc/sprintbench >/srv/report/one_gpu.list
step both_in_one {INSTALL} --app-id 123 --gpu 0,1 $FROM
cat /etc/sprintbench/gpu-0-1.env /etc/systemd/system/bench-runner@0-1.service.d/gpu.conf >/srv/report/both_in_one.files

mkdir -p /var/spool/sprintbench/week03-c7
step kept /srv/checkout/runner/setup/install.sh --uninstall
rmdir /var/spool/sprintbench/tmp /var/spool/sprintbench/week03-c7
step dry_removal /srv/checkout/runner/setup/install.sh --uninstall --dry-run
step removed /srv/checkout/runner/setup/install.sh --uninstall
step removed_again /srv/checkout/runner/setup/install.sh --uninstall
getent passwd sprintbench >/srv/report/passwd-left
true
""")


# ---------------------------------------------------------------------------------------------------- linters


def test_shellcheck() -> None:
    scripts = [*SETUP.rglob("*.sh"), *STAND_INS.iterdir()]
    assert len(scripts) > 6
    shellcheck = str(Path(sys.executable).parent / "shellcheck")
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_exposure_is_ok_or_better(unit: Path) -> None:
    """--threshold is in tenths: systemd calls 3.0 OK, and anything from 5.0 on MEDIUM or worse."""
    done = subprocess.run([tool("systemd-analyze", "systemd"), "security", "--no-pager", "--offline=true", "--threshold=30", str(unit)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Overall exposure level for \S+: \d\.\d OK", done.stdout)


# ---------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(("arguments", "message"), [
    ("", "--repo OWNER/NAME is needed"),
    ("--repo sprint", "--repo OWNER/NAME is needed"),
    ("--repo a/b;id", "--repo OWNER/NAME is needed"),
    ("--repo", "--repo needs a value"),
    ("--nonsense", "unknown option --nonsense"),
    ("--repo a/b --labels a;b", "--labels: letters, digits, dots, dashes; commas between them"),
    ("--repo a/b --group x", "--group: the number of a runner group"),
    ("--repo a/b --api http://github.example", "--api: an https address"),
    ("--repo a/b --app-key k", "--app-key needs --app-id"),
    ("--repo a/b --app-id 1 --app-key k --token-file t", "--app-key or --token-file, not both"),
    ("--repo a/b --gpu 0;1", "--gpu: a number, or numbers with commas between them"),
    ("--repo a/b --runner-version 2.400.0", "--runner-version and --runner-sha256 go together"),
    (f"--repo a/b --runner-version 2.320.0 --runner-sha256 {'a' * 64}", "--runner-version: GitHub refuses runners before 2.329.0"),
])
def test_a_mistake_is_one_line(arguments: str, message: str) -> None:
    done = subprocess.run([str(SETUP / "install.sh"), "--dry-run", *arguments.split()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"install.sh: {message} (see --help)\n")


def test_help_names_every_option() -> None:
    source = (SETUP / "install.sh").read_text()
    done = subprocess.run([str(SETUP / "install.sh"), "--help"], capture_output=True, text=True, check=True)
    taken = set(re.findall(r"^ +(--[a-z0-9-]+)\) ", source, re.MULTILINE)) | set(re.findall(r"(--[a-z0-9-]+)\) \w+=\$2", source))
    assert len(taken) == 15
    assert {option for option in taken if option not in done.stdout} == set()


def test_one_version_and_checksum_in_script_image_and_page() -> None:
    source = (SETUP / "install.sh").read_text()
    version, sha256 = (re.search(rf"^RUNNER_{name}=(\S+)$", source, re.MULTILINE) for name in ("VERSION", "SHA256"))
    assert version and sha256
    image = (SETUP / "Dockerfile").read_text()
    assert f"ARG RUNNER_VERSION={version[1]}\n" in image
    assert f"ARG RUNNER_SHA256={sha256[1]}\n" in image
    assert version[1] in (SETUP / "README.md").read_text()


# ---------------------------------------------------------------------------------------------------- on a machine


@slow
def test_a_dry_run_prints_everything_and_touches_nothing(installed: Machine) -> None:
    assert installed.code("dry") == 0, installed.log("dry")
    assert installed.paths("dry") <= {"/usr", "/usr/local", "/usr/local/py", "/usr/local/stand-ins"}
    said, done = (re.findall(r"^\+ (.*)$", installed.log(step), re.MULTILINE) for step in ("dry", "first"))
    assert [re.sub(r"/tmp/tmp\.\w+", "/tmp", line) for line in said] == [re.sub(r"/tmp/tmp\.\w+", "/tmp", line) for line in done]
    assert len(said) > 30


@slow
def test_the_first_run_installs(installed: Machine) -> None:
    assert installed.code("first") == 0, installed.log("first")
    assert (installed.report / "venv.code").read_text() == "0\n"
    assert (installed.report / "passwd").read_text().endswith(":/var/lib/sprintbench:/usr/sbin/nologin\n")
    assert (installed.report / "owners").read_text() == (
        "600 root /etc/sprintbench/github.cred\n700 sprintbench /var/spool/sprintbench\n700 sprintbench /var/lib/sprintbench/jobs/0\n")
    assert (installed.report / "sprintbench" / "minter.env").read_text() == "REPO=octo-org/sprint\nAPP_ID=123\nLABELS=gpu\nGROUP=1\nAPI=https://api.github.com\n"
    assert "SPRINTBENCH_PYTHON=/opt/sprintbench/venv/bin/python\n" in (installed.report / "sprintbench" / "runner.env").read_text()
    assert "LoadCredentialEncrypted=github:/etc/sprintbench/github.cred" in (
        installed.report / "bench-minter@.service.d" / "credential.conf").read_text()
    fetched = (installed.report / "state" / "fetched").read_text()
    assert "https://github.com/actions/runner/releases/download/v2.999.0/actions-runner-linux-x64-2.999.0.tar.gz" in fetched
    assert "secret" not in installed.log("first")


@slow
def test_a_runner_sees_its_own_gpu_by_uuid_and_device(installed: Machine) -> None:
    """The stand-in's GPU 1 is device 0, as the order of the PCI bus and that of the devices may differ."""
    assert (installed.report / "sprintbench" / "gpu-1.env").read_text() == (
        "CUDA_DEVICE_ORDER=PCI_BUS_ID\nCUDA_VISIBLE_DEVICES=GPU-11111111-aaaa-bbbb-cccc-111111111111\n")
    assert (installed.report / "bench-runner@1.service.d" / "gpu.conf").read_text() == "[Service]\nDeviceAllow=/dev/nvidia0 rw\n"


@pytest.mark.parametrize("step", ["again", "without_the_key"])
@slow
def test_a_second_run_changes_not_one_byte(installed: Machine, step: str) -> None:
    assert installed.code(step) == 0, installed.log(step)
    assert installed.log(step) == "Nothing to do: everything is as asked.\n"
    assert installed.tree(step) == installed.tree("first")


@slow
def test_units_are_started_in_order(installed: Machine) -> None:
    calls = (installed.report / "state" / "calls").read_text().splitlines()
    assert calls[:5] == ["daemon-reload", "stop bench-minter@0.service bench-runner@0.service", "enable --now bench-minter@0.service",
                         "stop bench-minter@1.service bench-runner@1.service", "enable --now bench-minter@1.service"]


@slow
def test_a_job_gets_a_fresh_runner_that_it_cannot_change(installed: Machine) -> None:
    assert installed.code("prepared") == 0, installed.log("prepared")
    job = {path: (mode, uid) for mode, uid, path in (line.split() for line in (installed.report / "job").read_text().splitlines())}
    user = (installed.report / "passwd").read_text().split(":")[2]
    assert job["./run.sh"] == job["./bin/Runner.Listener"] == ("755", "0")
    assert job["./.credentials_rsaparams"] == job["./.runner"] == ("600", user)
    assert job["."] == job["./_work"] == job["./home"] == ("700", user)
    assert job["./.env"] == ("644", "0")
    assert (installed.report / "registration-left").read_text() == ""
    assert installed.code("emptied") == 0, installed.log("emptied")
    assert (installed.report / "job-left").read_text() == ""


@slow
def test_systemd_takes_the_installed_units(installed: Machine) -> None:
    """With their drop-ins, and with every program that they name in its place."""
    tool("systemd-analyze", "systemd")
    assert installed.code("verified") == 0, installed.log("verified")
    assert "bench-" not in installed.log("verified"), installed.log("verified")
    for unit in ("bench-minter@0", "bench-runner@0"):
        assert installed.code(f"security-{unit}") == 0, installed.log(f"security-{unit}")
        assert re.search(r": [0-2]\.\d OK", installed.log(f"security-{unit}"))


@slow
def test_the_installed_hook_lets_a_job_in_or_says_why_not(installed: Machine) -> None:
    assert (installed.code("hook"), installed.log("hook")) == (0, "The GPU is fit for a job.\n")
    assert installed.code("refusing") == 78
    assert installed.log("refusing").splitlines()[0] == (
        "unfit: GPU-00000000-aaaa-bbbb-cccc-000000000000 is in use by process 4711 (/usr/bin/python3 -c a, b): end it")
    assert installed.log("refusing").splitlines()[-1].startswith("::error::This GPU is not fit for a job")


@slow
def test_the_hook_after_a_job_reports_and_never_fails(installed: Machine) -> None:
    assert installed.code("afterwards") == 0
    assert installed.log("afterwards").splitlines()[1:] == [
        "::warning::This job left its GPU unfit; the lines above say how. No runner takes a job on it until that has passed.",
        "In the spool: 0 results."]


@slow
def test_other_options_change_what_they_say(installed: Machine) -> None:
    assert installed.code("one_gpu") == installed.code("both_in_one") == 0, installed.log("one_gpu") + installed.log("both_in_one")
    assert (installed.report / "one_gpu.list").read_text().split() == ["github.cred", "gpu-0.env", "minter.env", "runner.env"]
    assert "+ systemctl disable --now bench-minter@1.service" in installed.log("one_gpu")
    assert "venv" not in installed.log("one_gpu")
    assert (installed.report / "both_in_one.files").read_text() == (
        "CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
        "CUDA_VISIBLE_DEVICES=GPU-00000000-aaaa-bbbb-cccc-000000000000,GPU-11111111-aaaa-bbbb-cccc-111111111111\n"
        "[Service]\nDeviceAllow=/dev/nvidia1 rw\nDeviceAllow=/dev/nvidia0 rw\n")


@slow
def test_uninstall_does_not_throw_results_away(installed: Machine) -> None:
    assert installed.code("kept") == 1
    assert installed.log("kept") == (
        "install.sh: /var/spool/sprintbench holds results that nobody has fetched: copy them, or add --discard-spool\n")
    assert {"/var/spool/sprintbench/week03-c7", "/opt/sprintbench/minter.py"} <= installed.paths("kept")
    assert installed.code("dry_removal") == 0
    assert "/opt/sprintbench/minter.py" in installed.paths("dry_removal")


@slow
def test_uninstall_leaves_nothing(installed: Machine) -> None:
    assert installed.code("removed") == 0, installed.log("removed")
    assert [path for path in installed.paths("removed") if "sprintbench" in path or "bench-" in path] == []
    assert (installed.report / "passwd-left").read_text() == ""
    # All that differs from the machine before: the account files, which useradd and userdel rewrite and keep copies of.
    accounts = r"/etc/((passwd|group|shadow|gshadow|subuid|subgid)-?|\.pwd\.lock)|/var/log/\w+"
    written = re.findall(r"^f \d+ \d+ \d+ [\d.]+ \.(\S+)", installed.tree("removed"), re.MULTILINE)
    assert [path for path in written if not re.fullmatch(accounts, path)] == []
    assert (installed.code("removed_again"), installed.log("removed_again")) == (0, "Nothing to remove.\n")
    assert installed.tree("removed_again") == installed.tree("removed")


# ---------------------------------------------------------------------------------------------------- machines that are not ready


@pytest.fixture(scope="module")
def unready(play: Play) -> Machine:
    return play(rf"""
for wrong in "no driver" hangs "old CUDA" "no persistence"; do
  echo "$wrong" >/run/gpu
  sed -i 's/--kill-after=5 30/--kill-after=1 2/' /srv/checkout/runner/setup/install.sh  # a test need not wait half a minute
  step "${{wrong// /_}}" {INSTALL} --app-id 123 --app-key /run/given/app.pem
done
rm /run/gpu
step wrong_sum {INSTALL} --app-id 123 --app-key /run/given/app.pem
/srv/checkout/runner/setup/install.sh --uninstall >/dev/null
step no_credential {INSTALL}
echo "not a key" >/run/given/bad
step bad_key {INSTALL} --app-id 123 --app-key /run/given/bad
step no_such_gpu {INSTALL} --app-id 123 --app-key /run/given/app.pem --gpu 0 --gpu 1,7
step no_toolkit {INSTALL} --app-id 123 --app-key /run/given/app.pem --containers
printf '#!/bin/sh\necho "NVIDIA Container Toolkit CLI version 1.17.8"\n' >/usr/local/stand-ins/nvidia-ctk
chmod +x /usr/local/stand-ins/nvidia-ctk
step old_toolkit {INSTALL} --app-id 123 --app-key /run/given/app.pem --containers
mkdir /run/away; mv /usr/local/stand-ins/nvidia-smi /usr/local/stand-ins/timedatectl /run/away
printf '#!/bin/sh\necho no\n' >/usr/local/stand-ins/timedatectl; chmod +x /usr/local/stand-ins/timedatectl
step bare {INSTALL} --app-id 123 --app-key /run/given/app.pem
step bare_dry {INSTALL} --app-id 123 --app-key /run/given/app.pem --dry-run
step in_a_home /srv/checkout/runner/setup/install.sh --repo a/b --python /root/no/python
rm /usr/local/stand-ins/systemd-creds
mv -f /run/away/* /usr/local/stand-ins
mv /usr/bin/systemd-creds /usr/bin/systemd-creds.away 2>/dev/null
step old_systemd {INSTALL} --app-id 123 --app-key /run/given/app.pem --runner-version 2.999.0 --runner-sha256 $SHA
stat -c '%a %U' /etc/sprintbench/github.secret >/srv/report/secret
step old_systemd_again {INSTALL} --app-id 123 --app-key /run/given/app.pem --runner-version 2.999.0 --runner-sha256 $SHA
cp /bin/sleep /run/Runner.Worker
runuser -u sprintbench -- /run/Runner.Worker 60 & sleep 0.5
step busy {INSTALL} --app-id 123 --labels other
step busy_removal /srv/checkout/runner/setup/install.sh --uninstall
kill %1
true
""")


@slow
@pytest.mark.parametrize(("step", "problem"), [
    ("no_driver", "nvidia-smi does not answer: does the driver hang? See journalctl -k"),
    ("hangs", "nvidia-smi does not answer: does the driver hang? See journalctl -k"),
    ("old_CUDA", "the driver is for CUDA 12.4, and 13.0 is needed: install a newer driver"),
    ("no_persistence", "persistence mode is off: systemctl enable --now nvidia-persistenced"),
    ("no_credential", "nothing may register runners yet: give --app-id and --app-key, or --token-file"),
    ("bad_key", "/run/given/bad is no private key in PEM form"),
    ("no_such_gpu", "nvidia-smi shows no GPU 7"),
    ("no_toolkit", "the NVIDIA Container Toolkit is missing: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/"),
    ("old_toolkit", "the NVIDIA Container Toolkit is 1.17.8: before 1.19.1 a container can take the machine over (CVE-2026-24260)"),
    ("bare", "there is no nvidia-smi: install the NVIDIA driver"),
    ("bare", "the clock is not in step with a time server, and GitHub refuses what is signed at another time: timedatectl set-ntp true"),
    ("in_a_home", "there is no Python 3.11 or newer: install one and name it with --python"),
    ("busy", "a job runs: wait for its end, or stop it with systemctl stop 'bench-runner@*'"),
])
def test_what_is_missing_is_said_before_anything_is_done(unready: Machine, step: str, problem: str) -> None:
    assert unready.code(step) == 1
    assert f"problem: {problem}\n" in unready.log(step)
    assert "\n+ " not in f"\n{unready.log(step)}"
    assert unready.log(step).splitlines()[-1].startswith("install.sh: nothing was changed; problems: ")


@slow
def test_a_runner_with_another_checksum_is_not_unpacked(unready: Machine) -> None:
    assert unready.code("wrong_sum") == 1
    assert unready.log("wrong_sum").splitlines()[-1].endswith("is not the runner 2.338.0: its SHA-256 is another")
    assert not any(path.startswith("/opt/sprintbench/runner") for path in unready.paths("wrong_sum"))


@slow
def test_a_dry_run_shows_the_rest_too(unready: Machine) -> None:
    assert unready.code("bare_dry") == 1
    assert "The run would stop here; problems: 2. Without them:\n" in unready.log("bare_dry")
    assert "+ systemctl enable --now bench-minter@0.service\n" in unready.log("bare_dry")


@slow
def test_before_systemd_250_the_credential_is_roots_alone(unready: Machine) -> None:
    assert unready.code("old_systemd") == 0, unready.log("old_systemd")
    assert (unready.report / "secret").read_text() == "600 root\n"
    assert unready.log("old_systemd_again").splitlines()[-1] == "Nothing to do: everything is as asked."
    assert unready.tree("old_systemd_again") == unready.tree("old_systemd")


@slow
def test_a_running_job_is_not_swept_away(unready: Machine) -> None:
    assert unready.code("busy_removal") == 1
    assert unready.log("busy_removal") == "install.sh: a job runs: wait for its end, or stop it with systemctl stop 'bench-runner@*'\n"


# ---------------------------------------------------------------------------------------------------- systemd itself

# systemd as process 1 of a machine without anything else: the kernel's settings are read-only, and nothing starts by itself but
# the steps, whose end is its end.
BOOT = r"""
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mkdir -p dev/pts dev/shm usr/local/bin
mknod -m 666 dev/nvidia0 c 195 0
mknod -m 666 dev/nvidia1 c 195 1
mknod -m 666 dev/nvidiactl c 195 255
cp usr/local/stand-ins/{nvidia-smi,timedatectl,ldconfig} usr/local/bin
printf '#!/bin/sh\necho a kernel without faults\n' >usr/local/bin/journalctl
chmod +x usr/local/bin/journalctl
rm -f {etc,usr/lib}/systemd/system/*.wants/*
printf '%s\n' '[Unit]' 'Wants=steps.service' 'After=basic.target' 'Requires=basic.target' >etc/systemd/system/default.target
printf '%s\n' '[Service]' 'Type=oneshot' 'PassEnvironment=PATH' 'ExecStart=/bin/bash /srv/steps.sh' \
  'ExecStopPost=/bin/systemctl --no-block exit 3' \
  'StandardOutput=file:/srv/report/steps.out' 'StandardError=file:/srv/report/steps.err' >etc/systemd/system/steps.service
mount --make-rshared .  # systemd hands credentials over by a mount
export container=lxc PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot . /lib/systemd/systemd --system --unit=default.target
"""

# What a job sees and may do, written to the only place that outlives it.
JOB = r"""#!/bin/bash
exec >"/var/spool/sprintbench/job-$(ls /var/spool/sprintbench | wc -l)" 2>&1
may() { if "$@" >/dev/null 2>&1; then echo "may: $*"; else echo "may not: $*"; fi; }
opens() { python3 -c 'import os, sys
try: os.open(sys.argv[1], os.O_RDWR); print("opens", sys.argv[1])
except OSError as error: print("open", sys.argv[1], error.errno)' "$1"; }
echo "user $(id -un), in $PWD, settings $(cat .runner), work $(ls -A _work | wc -l), home $HOME"
echo "GPUs $CUDA_VISIBLE_DEVICES; .env $(grep -c . .env); privileges $(grep NoNewPrivs /proc/self/status | tr -dc 0-9)"
opens /dev/nvidia0; opens /dev/nvidia1; opens /dev/nvidiactl
may ls /etc/sprintbench/
may ls /var/lib/sprintbench/jobs/1
may touch /opt/sprintbench/venv/x
may touch /etc/x
may dd of=bin/Runner.Listener conv=notrunc </dev/zero count=1
echo "left by others: $(ls /tmp /dev/shm "$HOME" | grep -c left)"
may touch _work/left /tmp/left /dev/shm/left "$HOME/left"
may unshare --user true
may kill -0 1
seen=$(cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n')
[[ $seen == *eyIucnVubmVyIjog* || $seen == *SECRET* ]] && echo "a secret shows"
echo "processes seen: $(ls -d /proc/[0-9]* | wc -l)" | sed 's/: [0-9]$/: few/; s/: 1[0-9]$/: few/'
setsid sleep 987 &
echo end
exec sleep 6
"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Installed under systemd itself: two jobs, one after the other, and gone. GitHub is a server of this test."""
    sudo = as_root()
    if not Path("/lib/systemd/systemd").exists():
        tool("systemd", "systemd")  # says what to do
    work = tmp_path_factory.mktemp("booted")
    with serve() as github:
        github.answers[REGISTER] = ok({"encoded_jit_config": registration()}, 201)
        lay_out(work, rf"""
echo up >/srv/report/up
echo github_pat_SECRET >/run/given/token
for unit in minter runner; do  # there is no journal here
  mkdir -p /etc/systemd/system/bench-$unit@.service.d
  printf '[Service]\nStandardOutput=append:/srv/report/%s.log\nStandardError=append:/srv/report/%s.log\n' $unit $unit \
    >/etc/systemd/system/bench-$unit@.service.d/log.conf
done
step first {INSTALL} --token-file /run/given/token --gpu 0 --api {github.url} --runner-tarball /srv/runner.tar.gz \
  --runner-version 2.999.0 --runner-sha256 $SHA
for turn in $(seq 400); do [[ -s /var/spool/sprintbench/job-1 ]] && grep -q '^end$' /var/spool/sprintbench/job-1 && break; sleep 0.1; done
systemctl stop bench-minter@0; systemctl stop bench-runner@0
cp /var/spool/sprintbench/job-* /srv/report
systemctl show bench-minter@0 bench-runner@0 --property=Id,Result,ExecMainStatus >/srv/report/show
pgrep -a sleep >/srv/report/strays
ls -A /var/lib/sprintbench/jobs/0 >/srv/report/job-left
step again {INSTALL} --token-file /run/given/token --gpu 0 --api {github.url} --runner-version 2.999.0 --runner-sha256 $SHA
step removed /srv/checkout/runner/setup/install.sh --uninstall --discard-spool
systemctl list-units --all --no-legend 'bench-*' >/srv/report/units-left
true
""", JOB)
        (work / "stand-ins" / "systemctl").unlink()
        (work / "stand-ins" / "systemd-creds").unlink()
        command = ["timeout", "--kill-after=5", "150", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts",
                   "--ipc", "--propagation", "private", "bash", "-c", MACHINE, "machine", str(work), sys.base_prefix, BOOT]
        done = subprocess.run([*sudo, *command], capture_output=True, text=True, check=False)
        if not (work / "report" / "up").exists():
            why = f"systemd does not start in a namespace here: {done.stderr[-300:]}"
            assert os.environ.get("CI") != "true", why
            pytest.skip(why)
        (work / "report" / "asked").write_text(json.dumps([asked[3] for asked in github.asked]))
    return Machine(work / "report")


SEEN_BY_A_JOB = f"""\
user sprintbench, in /var/lib/sprintbench/jobs/0, settings {{"ephemeral": true}}, work 0, home /var/lib/sprintbench/jobs/0/home
GPUs {ZERO}; .env 5; privileges 1
open /dev/nvidia0 1
open /dev/nvidia1 6
open /dev/nvidiactl 6
may not: ls /etc/sprintbench/
may not: ls /var/lib/sprintbench/jobs/1
may not: touch /opt/sprintbench/venv/x
may not: touch /etc/x
may not: dd of=bin/Runner.Listener conv=notrunc count=1
left by others: 0
may: touch _work/left /tmp/left /dev/shm/left /var/lib/sprintbench/jobs/0/home/left
may not: unshare --user true
may not: kill -0 1
processes seen: few
end
"""


@slow
def test_systemd_runs_one_job_after_another(booted: Machine) -> None:
    """Each with a registration of its own. The second sees nothing of the first, and neither what it is not to see: errno 1 is the
    device list's no to the other GPU; 6 is the kernel's, which has no driver here."""
    assert booted.code("first") == 0, booted.log("first")
    assert [(booted.report / f"job-{turn}").read_text() for turn in (0, 1)] == [SEEN_BY_A_JOB] * 2
    asked = json.loads((booted.report / "asked").read_text())
    assert len({body["name"] for body in asked}) == len(asked) >= 2
    minter = booted.log("minter").splitlines()
    assert [line.partition(": ")[2] for line in minter[:2]] == ["registered for one job; starting bench-runner@0.service", "done"]


@slow
def test_after_a_job_nothing_of_it_is_left(booted: Machine) -> None:
    """The first job left a process in a session of its own."""
    assert (booted.report / "strays").read_text() == ""
    assert (booted.report / "job-left").read_text() == ""


@slow
def test_no_secret_is_in_what_the_units_print(booted: Machine) -> None:
    assert "SECRET" not in booted.log("minter") + booted.log("runner") + booted.log("first")
    assert registration()[:16] not in booted.log("minter") + booted.log("runner")


@slow
def test_under_systemd_too_the_second_run_changes_nothing(booted: Machine) -> None:
    assert booted.log("again") == "Nothing to do: everything is as asked.\n"
    assert booted.code("removed") == 0
    assert (booted.report / "units-left").read_text() == ""
    assert [path for path in booted.paths("removed") if "sprintbench" in path] == []
