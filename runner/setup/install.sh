#!/usr/bin/env bash
# Makes a machine with an NVIDIA GPU a runner for one repository's benchmarks: one job at a time, each registered anew, hardened.
# Read it from top to bottom; it does what --dry-run prints, in that order. README.md beside it says why, and how to undo it.
set -euo pipefail
umask 022

# The Actions runner. The checksum is that of its release notes; README.md says where it was checked. To move to a newer one,
# change both lines (GitHub stops giving jobs to a runner that is more than 30 days behind a release).
RUNNER_VERSION=2.338.0
RUNNER_SHA256=af4b794c1bc41d73d40535e3fe092a39f9679cd8d965954c2aca25a05ca41d32

LEAST_RUNNER=2.329.0  # GitHub refuses older ones
LEAST_TOOLKIT=1.19.1  # CVE-2026-24260: a container could leave its box before
LEAST_SYSTEMD=247     # LoadCredential= and ProtectProc=
LEAST_CUDA=13.0       # what PyTorch's packages in constraints.txt are built for
LEAST_GIB=20

OPT=/opt/sprintbench
ETC=/etc/sprintbench
LIB=/var/lib/sprintbench
SPOOL=/var/spool/sprintbench
UNITS=/etc/systemd/system
USER_NAME=sprintbench

here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
checkout="$(dirname "$(dirname "$here")")"

usage() {
  cat <<'END'
install.sh --repo OWNER/NAME (--app-id ID --app-key FILE | --token-file FILE) [options]
install.sh --uninstall

  --repo OWNER/NAME       the repository whose benchmarks run here
  --app-id ID             a GitHub App with the repository permission Administration (write), installed on it
  --app-key FILE          its private key, a .pem
  --token-file FILE       or a file with a fine-grained token of that permission; an App's key is better, for it never expires by surprise
  --gpu N[,N...]          a runner with GPU N, or with all of the list, for /bench --gpus; may be repeated  [one runner for each GPU]
  --labels A[,B...]       labels beside self-hosted, linux and x64  [gpu]
  --group ID              the runner group's id  [1, the default group]
  --api URL               the root of its REST API, with GitHub Enterprise Server  [https://api.github.com]
  --python PATH           Python 3.11 or newer  [the first of python3, python3.13, python3.12, python3.11]
  --containers            jobs use containers, so check the NVIDIA Container Toolkit too
  --runner-tarball PATH   a runner that was downloaded elsewhere, on a machine that cannot reach github.com
  --runner-version V, --runner-sha256 HEX
                          another version of the runner; both, or neither
  --dry-run               print every action, do none
  --uninstall             remove all of it
  --discard-spool         with --uninstall: also results that nobody has fetched
  --help

A second run with the same options changes nothing and says so. Exit codes: 0 done, 1 something is amiss (the lines say what), 2 usage.
END
}

fail() { echo "install.sh: $*" >&2; exit 1; }
usage_error() { echo "install.sh: $* (see --help)" >&2; exit 2; }

repo='' app_id='' app_key='' token_file='' labels=gpu group=1 api=https://api.github.com python='' tarball='' version='' sha256=''
containers=no dry_run=no uninstall=no discard_spool=no
sets=()
while (($#)); do
  case "$1" in
    --repo | --app-id | --app-key | --token-file | --gpu | --labels | --group | --api | --python | --runner-tarball | --runner-version | --runner-sha256)
      (($# > 1)) || usage_error "$1 needs a value"
      case "$1" in
        --repo) repo=$2 ;; --app-id) app_id=$2 ;; --app-key) app_key=$2 ;; --token-file) token_file=$2 ;; --gpu) sets+=("$2") ;;
        --labels) labels=$2 ;; --group) group=$2 ;; --api) api=$2 ;; --python) python=$2 ;; --runner-tarball) tarball=$2 ;;
        --runner-version) version=$2 ;; --runner-sha256) sha256=$2 ;;
      esac
      shift 2 ;;
    --containers) containers=yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --uninstall) uninstall=yes; shift ;;
    --discard-spool) discard_spool=yes; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage_error "unknown option $1" ;;
  esac
done

# ---------------------------------------------------------------------------------------------------- how things are done

changes=0
problems=()
problem() { problems+=("$*"); echo "problem: $*" >&2; }

# Say it, and do it unless --dry-run.
act() {
  changes=$((changes + 1))
  printf '+ %s\n' "$*"
  [[ $dry_run == yes ]] || "$@"
}

# put MODE FILE: what comes on stdin becomes FILE, whole or not at all. Root's, as all of this but the job's folders and the spool.
put() {
  local mode=$1 file=$2 part
  part=$(mktemp)
  cat >"$part"
  if [[ -f $file && ! -L $file ]] && cmp -s "$part" "$file" && [[ $(stat -c %a "$file") == "$mode" ]]; then
    rm -f "$part"
    return
  fi
  changes=$((changes + 1))
  echo "+ write $file (mode $mode)"
  if [[ $dry_run == no ]]; then
    install -m "$mode" "$part" "$file.part"
    mv -f "$file.part" "$file"
  fi
  rm -f "$part"
}

# folder MODE OWNER DIR
folder() {
  [[ -d $3 && $(stat -c '%a %U' "$3") == "$1 $2" ]] || act install -d -m "$1" -o "$2" -g "$2" "$3"
}

copy_checkout() {  # copy_checkout FROM TO: what pip needs of it
  tar -C "$1" --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./results -cf - . | tar --no-same-owner -xf - -C "$2"
}

at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }  # at_least 1.2 1.10: is 1.10 as new as 1.2?

# The numbers of the GPUs that have a runner now: 0, or 0-1 where one runner has two.
installed_sets() { find "$ETC" -maxdepth 1 -name 'gpu-*.env' -printf '%f\n' 2>/dev/null | sed -E 's/^gpu-(.*)\.env$/\1/' | sort; }

a_job_runs() { id -u "$USER_NAME" >/dev/null 2>&1 && pgrep -u "$USER_NAME" -x Runner.Worker >/dev/null; }

[[ $dry_run == yes || $(id -u) == 0 ]] || fail "run it as root: sudo $0 ..."

# ---------------------------------------------------------------------------------------------------- uninstall

remove_set() {  # remove_set N: its minter, its runner, and what is named after it
  local set=$1
  if [[ -f $UNITS/bench-minter@.service ]]; then
    act systemctl disable --now "bench-minter@$set.service"
    act systemctl stop "bench-runner@$set.service"
  fi
  act rm -rf "$UNITS/bench-runner@$set.service.d" "$LIB/jobs/$set" "$ETC/gpu-$set.env"
}

if [[ $uninstall == yes ]]; then
  if [[ -d $SPOOL && -n $(ls -A "$SPOOL") && $discard_spool == no ]]; then
    fail "$SPOOL holds results that nobody has fetched: copy them, or add --discard-spool"
  fi
  if a_job_runs; then fail "a job runs: wait for its end, or stop it with systemctl stop 'bench-runner@*'"; fi
  for set in $(installed_sets); do remove_set "$set"; done
  units=no
  for path in "$UNITS/bench-minter@.service" "$UNITS/bench-minter@.service.d" "$UNITS/bench-runner@.service" \
    "$OPT" "$ETC" "$LIB" "$SPOOL"; do
    [[ -e $path ]] || continue
    [[ $path != "$UNITS"/* ]] || units=yes
    act rm -rf "$path"
  done
  [[ $units == no ]] || act systemctl daemon-reload
  if id -u "$USER_NAME" >/dev/null 2>&1; then act userdel "$USER_NAME"; fi
  if ((changes == 0)); then echo "Nothing to remove."; else echo "Removed. On github.com, remove the App or token too."; fi
  exit 0
fi

# ---------------------------------------------------------------------------------------------------- is all there?

[[ $repo =~ ^[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}$ ]] || usage_error "--repo OWNER/NAME is needed"
[[ $labels =~ ^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$ ]] || usage_error "--labels: letters, digits, dots, dashes; commas between them"
[[ $group =~ ^[1-9][0-9]*$ ]] || usage_error "--group: the number of a runner group"
[[ $api =~ ^(https://|http://127\.0\.0\.1:)[A-Za-z0-9.:/_-]+$ ]] || usage_error "--api: an https address"
[[ -z $app_id || $app_id =~ ^[A-Za-z0-9]+$ ]] || usage_error "--app-id: the App's id or client id"
[[ -z $app_key || -z $token_file ]] || usage_error "--app-key or --token-file, not both"
[[ -z $app_key || -n $app_id ]] || usage_error "--app-key needs --app-id"
for set in "${sets[@]}"; do [[ $set =~ ^[0-9]+(,[0-9]+)*$ ]] || usage_error "--gpu: a number, or numbers with commas between them"; done
if [[ -n $version || -n $sha256 ]]; then
  [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ && $sha256 =~ ^[0-9a-f]{64}$ ]] || usage_error "--runner-version and --runner-sha256 go together"
  at_least "$LEAST_RUNNER" "$version" || usage_error "--runner-version: GitHub refuses runners before $LEAST_RUNNER"
  RUNNER_VERSION=$version RUNNER_SHA256=$sha256
fi

[[ $(uname -sm) == "Linux x86_64" ]] || problem "this is $(uname -sm), and the bench asks for Linux on x86_64"
missing=()
for tool in apt-get:apt systemctl:systemd curl:curl git:git cc:gcc openssl:openssl tar:tar pgrep:procps sha256sum:coreutils useradd:passwd; do
  command -v "${tool%%:*}" >/dev/null || missing+=("${tool#*:}")
done
if [[ -n $python ]]; then candidates=("$python"); else candidates=(python3 python3.13 python3.12 python3.11); fi
python=''
for candidate in "${candidates[@]}"; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$("$candidate" -I -c 'import os, sys; print(os.path.realpath(sys.executable))')
    break
  fi
done
if [[ -z $python ]]; then
  problem "there is no Python 3.11 or newer: install one and name it with --python"
elif [[ $python == /root/* || $python == /home/* ]]; then
  problem "$python lies in a home, which jobs cannot see: name another with --python"
else
  "$python" -I -c 'import ensurepip, venv' 2>/dev/null || missing+=("$(basename "$python")-venv")
  header="$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
  [[ -f $header ]] || missing+=("$(basename "$python")-dev")  # Triton compiles against it
fi
ldconfig -p | grep -q 'libicuuc\.so' || missing+=("'^libicu[0-9]+\$'")  # the runner is a .NET program
((${#missing[@]} == 0)) || problem "packages are missing: apt-get install -y ${missing[*]}"

if command -v systemctl >/dev/null; then
  systemd=$(systemctl --version | sed -nE '1s/^systemd ([0-9]+).*/\1/p')
  at_least "$LEAST_SYSTEMD" "${systemd:-0}" || problem "systemd is ${systemd:-of an unknown version}, and $LEAST_SYSTEMD or newer is needed"
  [[ -d /run/systemd/system ]] || problem "systemd does not run here (a container?): see compose.yaml, or k8s/"
fi
if [[ $(timedatectl show --property=NTPSynchronized --value 2>/dev/null) != yes ]]; then
  problem "the clock is not in step with a time server, and GitHub refuses what is signed at another time: timedatectl set-ntp true"
fi
for place in /opt /var/lib; do
  [[ $(df --output=avail -B 1G "$place" | tail -n 1) -ge $LEAST_GIB ]] || problem "$place has less than $LEAST_GIB GiB free"
  inodes=$(df --output=ipcent "$place" | tail -n 1 | tr -dc 0-9)
  [[ ${inodes:-0} -le 95 ]] || problem "$place has hardly an inode left"
done
if [[ $containers == yes ]]; then
  toolkit=$(nvidia-ctk --version 2>/dev/null | sed -nE 's/.*version ([0-9]+(\.[0-9]+)+).*/\1/p' | head -n 1 || true)
  if [[ -z $toolkit ]]; then
    problem "the NVIDIA Container Toolkit is missing: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/"
  elif ! at_least "$LEAST_TOOLKIT" "$toolkit"; then
    problem "the NVIDIA Container Toolkit is $toolkit: before $LEAST_TOOLKIT a container can take the machine over (CVE-2026-24260)"
  fi
fi

gpus=''  # lines of: number, UUID, persistence mode
if ! command -v nvidia-smi >/dev/null; then
  problem "there is no nvidia-smi: install the NVIDIA driver"
elif ! gpus=$(timeout --kill-after=5 30 nvidia-smi --query-gpu=index,uuid,persistence_mode --format=csv,noheader); then
  gpus=''
  problem "nvidia-smi does not answer: does the driver hang? See journalctl -k"
else
  about=$(timeout --kill-after=5 30 nvidia-smi -q || true)
  cuda=$(sed -nE 's/^CUDA( UMD)? Version *: *([0-9]+\.[0-9]+).*/\2/p' <<<"$about" | head -n 1)
  at_least "$LEAST_CUDA" "${cuda:-0}" || problem "the driver is for CUDA ${cuda:-unknown}, and $LEAST_CUDA is needed: install a newer driver"
  [[ -e /dev/nvidia-uvm ]] || problem "/dev/nvidia-uvm is missing, and a job cannot load it: nvidia-modprobe -u -c 0; at each start, nvidia-persistenced"
  if grep -q ', Disabled$' <<<"$gpus"; then problem "persistence mode is off: systemctl enable --now nvidia-persistenced"; fi
fi
if ((${#sets[@]} == 0)) && [[ -n $gpus ]]; then mapfile -t sets < <(cut -d, -f1 <<<"$gpus"); fi
((${#sets[@]})) || sets=(0)  # without an answer there is a problem already, and --dry-run shows one GPU

# What is behind a GPU's number: its UUID, and the number of its device, which need not be the same.
uuid_of() { sed -nE "s/^$1, ([^,]+),.*/\1/p" <<<"$gpus"; }
minor_of() { timeout --kill-after=5 30 nvidia-smi -q --id="$1" 2>/dev/null | sed -nE 's/^ *Minor Number *: *([0-9]+).*/\1/p' | head -n 1; }
if [[ -n $gpus ]]; then
  for number in $(tr , ' ' <<<"${sets[*]}"); do
    [[ -n $(uuid_of "$number") && -n $(minor_of "$number") ]] || problem "nvidia-smi shows no GPU $number"
  done
fi

if [[ -n $app_key ]]; then
  [[ $(head -c 10 "$app_key" 2>/dev/null) == -----BEGIN ]] || problem "$app_key is no private key in PEM form"
elif [[ -n $token_file ]]; then
  [[ $(wc -w <"$token_file" 2>/dev/null) == 1 ]] || problem "$token_file has to hold a token and nothing else"
elif [[ ! -f $ETC/github.cred && ! -f $ETC/github.secret ]]; then
  problem "nothing may register runners yet: give --app-id and --app-key, or --token-file"
fi
if a_job_runs; then problem "a job runs: wait for its end, or stop it with systemctl stop 'bench-runner@*'"; fi

if ((${#problems[@]})); then
  [[ $dry_run == yes ]] || fail "nothing was changed; problems: ${#problems[@]}"
  echo "The run would stop here; problems: ${#problems[@]}. Without them:"
fi

# ---------------------------------------------------------------------------------------------------- the user, the folders

id -u "$USER_NAME" >/dev/null 2>&1 ||
  act useradd --system --user-group --home-dir "$LIB" --no-create-home --shell /usr/sbin/nologin "$USER_NAME"
folder 755 root "$OPT"
folder 755 root "$OPT/hooks"
folder 755 root "$ETC"
folder 755 root "$LIB"
folder 755 root "$LIB/jobs"
folder 700 "$USER_NAME" "$SPOOL"

# ---------------------------------------------------------------------------------------------------- the runner

if [[ $(cat "$OPT/runner/.sha256" 2>/dev/null) != "$RUNNER_SHA256" ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if [[ -z $tarball ]]; then
    tarball=$work/runner.tar.gz
    act curl --fail --silent --show-error --location --proto '=https' --retry 3 --output "$tarball" \
      "https://github.com/actions/runner/releases/download/v$RUNNER_VERSION/actions-runner-linux-x64-$RUNNER_VERSION.tar.gz"
  fi
  echo "+ check that its SHA-256 is $RUNNER_SHA256"
  if [[ $dry_run == no ]]; then
    [[ $(sha256sum <"$tarball") == "$RUNNER_SHA256  -" ]] || fail "$tarball is not the runner $RUNNER_VERSION: its SHA-256 is another"
  fi
  act rm -rf "$OPT/runner.part"
  act mkdir "$OPT/runner.part"
  act tar -xzf "$tarball" --no-same-owner --no-same-permissions -C "$OPT/runner.part"
  act rm -rf "$OPT/runner"
  act mv "$OPT/runner.part" "$OPT/runner"
  put 644 "$OPT/runner/.sha256" <<<"$RUNNER_SHA256"
fi

# ---------------------------------------------------------------------------------------------------- Python for the bench

[[ $(readlink "$OPT/python") == "$python" ]] || act ln -sfn "$python" "$OPT/python"
wanted=$(cat "$checkout/pyproject.toml" "$checkout/constraints.txt" - <<<"$python" | sha256sum | cut -d' ' -f1)
if [[ $(cat "$OPT/venv/.installed" 2>/dev/null) != "$wanted" ]]; then
  act rm -rf "$OPT/venv" "$OPT/checkout"
  act "$python" -I -m venv "$OPT/venv"
  # From a copy, because pip would build in the checkout, and leave root's files there.
  act mkdir "$OPT/checkout"
  act copy_checkout "$checkout" "$OPT/checkout"
  act "$OPT/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --constraint "$OPT/checkout/constraints.txt" \
    "$OPT/checkout[weeks]"
  act rm -rf "$OPT/checkout"
  put 644 "$OPT/venv/.installed" <<<"$wanted"
fi

# ---------------------------------------------------------------------------------------------------- scripts and settings

for script in minter.py hygiene.py job_folder.py; do put 644 "$OPT/$script" <"$here/$script"; done
for hook in job-started.sh job-completed.sh; do put 755 "$OPT/hooks/$hook" <"$here/hooks/$hook"; done

put 644 "$ETC/minter.env" <<END
REPO=$repo
APP_ID=$app_id
LABELS=$labels
GROUP=$group
API=${api%/}
END
put 644 "$ETC/runner.env" <<END
SPRINTBENCH_PYTHON=$OPT/venv/bin/python
SPRINTBENCH_SPOOL=$SPOOL
ACTIONS_RUNNER_HOOK_JOB_STARTED=$OPT/hooks/job-started.sh
ACTIONS_RUNNER_HOOK_JOB_COMPLETED=$OPT/hooks/job-completed.sh
ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1
END

# ---------------------------------------------------------------------------------------------------- the credential

# Encrypted with this machine's key or its TPM where systemd can (250 or newer), else a file that root alone can read.
secret=${app_key:-$token_file}
if [[ -n $secret ]]; then
  if command -v systemd-creds >/dev/null; then
    if [[ ! -f $ETC/github.cred ]] || ! systemd-creds decrypt --name=github "$ETC/github.cred" - 2>/dev/null | cmp -s - "$secret"; then
      act systemd-creds encrypt --name=github "$secret" "$ETC/github.cred"
    fi
  else
    echo "note: systemd before 250 cannot encrypt credentials; $ETC/github.secret is plain, and root's alone"
    put 600 "$ETC/github.secret" <"$secret"
  fi
fi
folder 755 root "$UNITS/bench-minter@.service.d"
if command -v systemd-creds >/dev/null && [[ -n $secret || -f $ETC/github.cred ]]; then
  line=LoadCredentialEncrypted=github:$ETC/github.cred
  [[ ! -f $ETC/github.secret ]] || act rm -f "$ETC/github.secret"
else
  line=LoadCredential=github:$ETC/github.secret
fi
put 644 "$UNITS/bench-minter@.service.d/credential.conf" <<END
[Service]
$line
END

# ---------------------------------------------------------------------------------------------------- units, one runner for each set of GPUs

for unit in bench-minter@.service bench-runner@.service; do put 644 "$UNITS/$unit" <"$here/systemd/$unit"; done

names=()
for set in "${sets[@]}"; do
  name=${set//,/-}
  names+=("$name")
  uuids=() devices=()
  for number in ${set//,/ }; do
    uuid=$(uuid_of "$number") minor=$(minor_of "$number" || true)
    uuid=${uuid:-"<UUID of GPU $number>"} minor=${minor:-"<number of GPU $number>"}  # without an answer, in a --dry-run
    uuids+=("$uuid") devices+=("DeviceAllow=/dev/nvidia$minor rw")
  done
  put 644 "$ETC/gpu-$name.env" <<END
CUDA_DEVICE_ORDER=PCI_BUS_ID
CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${uuids[*]}")
END
  folder 700 "$USER_NAME" "$LIB/jobs/$name"
  folder 755 root "$UNITS/bench-runner@$name.service.d"
  put 644 "$UNITS/bench-runner@$name.service.d/gpu.conf" < <(printf '%s\n' '[Service]' "${devices[@]}")
done
for name in $(installed_sets); do
  [[ " ${names[*]} " == *" $name "* ]] || remove_set "$name"  # a runner that is not asked for any more
done

for name in "${names[@]}"; do
  systemctl is-enabled --quiet "bench-minter@$name.service" 2>/dev/null || unfinished=yes  # also where an earlier run was cut short
done
if ((changes)) || [[ ${unfinished:-no} == yes ]]; then
  act systemctl daemon-reload
  for name in "${names[@]}"; do
    act systemctl stop "bench-minter@$name.service" "bench-runner@$name.service"
    act systemctl enable --now "bench-minter@$name.service"
  done
fi

# ---------------------------------------------------------------------------------------------------- done

if [[ $dry_run == yes ]]; then
  echo "$changes actions; none was done."
  ((${#problems[@]} == 0)) || exit 1
elif ((changes)); then
  echo "Done. It asks for jobs of $repo now: journalctl -fu 'bench-*'"
  [[ -z $secret ]] || echo "Remove $secret from this machine; the installation has its own copy."
else
  echo "Nothing to do: everything is as asked."
fi
