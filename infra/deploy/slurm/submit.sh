#!/usr/bin/env bash
# Submit a whole run to Slurm: for each stage an array of shares, and a job that checks that all are done.
#
#     submit.sh CONFIG SHARES [options of sbatch for the arrays, such as --cpus-per-task=4 --mem=16G --time=12:00:00]
#
# Every node needs the package, the sources, the store and the run's folder, each under the same path. A share that
# fails or is requeued goes on from what is done; after a failure submit again, which does what is missing.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
config=$(realpath "$1") shares=$2
shift 2

stages="ingest measure decide export"
if grep -q '^annotate:' "$config"; then stages="ingest measure decide annotate export"; fi

after=()
submit() { # submit NAME COMMAND [options of sbatch]: a job that begins when the one before has succeeded
  local name=$1 command=$2
  shift 2
  job=$(sbatch --parsable --job-name="reelmill-$name" --kill-on-invalid-dep=yes "${after[@]}" "$@" --wrap "$command")
  after=("--dependency=afterok:${job%%;*}")
  echo "$name: job ${job%%;*}"
}

for stage in $stages; do
  command="reelmill $stage $(printf %q "$config")"
  if [ "$stage" = decide ]; then
    submit decide "$command --workers \${SLURM_CPUS_PER_TASK:-1}" "$@"
  else
    submit "$stage" "$command --shard \$SLURM_ARRAY_TASK_ID/$shares --workers \${SLURM_CPUS_PER_TASK:-1}" \
      --array="0-$((shares - 1))" --requeue "$@"
    submit "$stage-finish" "$command --finish"
  fi
done
