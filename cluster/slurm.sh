#!/usr/bin/env bash
# A study on Slurm: one Ray over all nodes of the allocation, for as long as the study runs. It takes the options of
# pipelines/full_study.py; the run directory must lie on storage that all nodes share:
#
#     sbatch cluster/slurm.sh --study my.toml --run-dir "$HOME/runs/mine" --resources.gpus-per-worker 1
#
# From the repository's root, in an environment set up as README.md says. The same command again resumes.
#SBATCH --job-name=rspipe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=rspipe-%j.log
# Ray ends every Ray of its user on a node when it ends: the nodes must be ours alone.
#SBATCH --exclusive
# A job that gives way to another goes on later from where it was.
#SBATCH --requeue
set -euo pipefail

# shellcheck disable=SC1091
[[ -n "${VIRTUAL_ENV:-}" || ! -f .venv/bin/activate ]] || source .venv/bin/activate

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# In ~/.ray/auth_token, which the nodes share as they share the home directory.
ray get-auth-token --generate > /dev/null
# Nodes may take minutes until their Ray is up; the default is half a minute.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}"

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
# An address, not a name: on some systems a host's name is its own loopback address. `read` takes the first of several.
read -r address _ <<< "$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname -I)"
# Another for every job; between the ports of Ray's workers and those that the system hands out.
port=$((20000 + SLURM_JOB_ID % 10000))
export RSPIPE_HEAD="$address:$port"

# `ray symmetric-run` ends with 0 although its Ray did not start: the study itself says how it ended.
status=$(mktemp "$PWD/.rspipe-$SLURM_JOB_ID.XXXXXX")
trap 'rm -f "$status"' EXIT
export RSPIPE_STATUS="$status"

# It tells the study no address either, and without one the study would start a Ray of its own on the first node.
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  ray symmetric-run --address "$RSPIPE_HEAD" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
  bash -c 'RAY_ADDRESS="$RSPIPE_HEAD" python -u pipelines/full_study.py "$@"; code=$?; echo "$code" > "$RSPIPE_STATUS"; exit "$code"' study "$@" ||
  echo "srun ended with $?" >&2

if [[ ! -s "$status" ]]; then
  echo "the study did not start; what Ray said is above" >&2
  exit 1
fi
exit "$(< "$status")"
