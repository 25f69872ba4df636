#!/usr/bin/env bash
# Runs a study as the job of a RayJob on Kubernetes: `bash cluster/job.sh python pipelines/full_study.py ...`.
#
# For a job that failed KubeRay starts another cluster, as often as backoffLimit says; a lost head asks for that. A mistake
# of the user's (exit status 2) would only be made again: the job is stopped then, and a stopped one is not tried again.
"$@"
code=$?
if [[ $code == 2 && -n "${RAY_JOB_CONFIG_JSON_ENV_VAR:-}" ]]; then
  echo "exit status 2: what is wrong is said above; the job is stopped, since another try would end the same way" >&2
  job=$(python -c 'import json, os; print(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"])')
  # Until it is stopped, or for a minute.
  ray job stop --no-wait --address "${RSPIPE_DASHBOARD:-http://127.0.0.1:8265}" "$job" && sleep 60
fi
exit "$code"
