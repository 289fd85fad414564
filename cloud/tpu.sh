#!/usr/bin/env bash
# One TPU VM or slice and the run on it: cloud/tpu.sh create | install | run | log | resume | stop | delete
#   ZONE=us-east5-a OUT=gs://BUCKET/tldr-410m cloud/tpu.sh resume      # create, install and run whatever is missing
# What the variables mean, and what to do when something fails: docs/guides/cloud.md
set -euo pipefail
cd "$(dirname "$0")/.."
: "${ZONE:?name the zone of your quota, as in ZONE=us-east5-a}"
: "${OUT:?name the folder of the run, as in OUT=gs://BUCKET/tldr-410m}"
TPU=${TPU:-tldr}
TYPE=${TYPE:-v6e-8}
PORT=${PORT:-8476}
COMMAND=${COMMAND:-"python -m experiments run tldr --preset pythia-410m --stage all --layout.fsdp 8 --coordinator-port $PORT --out $OUT"}

tpus() {
  gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"
}

on_all_hosts() {
  tpus ssh --worker=all --command="$1"
}

copy() {
  gcloud compute tpus tpu-vm scp "$1" "$TPU:$2" --zone="$ZONE" --worker=all
}

create() {
  local version
  case "$TYPE" in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
  tpus create --accelerator-type="$TYPE" --version="$version" --spot
}

install() {
  local folder
  folder=$(mktemp -d)
  git bundle create "$folder/gvgap_jax.bundle" HEAD
  printf '%s' "${HF_TOKEN:-}" >"$folder/hf_token"
  copy "$folder/gvgap_jax.bundle" gvgap_jax.bundle
  copy "$folder/hf_token" hf_token
  rm -r "$folder"
  # shellcheck disable=SC2016  # the host expands it
  on_all_hosts '
    export PATH=$HOME/.local/bin:$PATH
    { command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh; } &&
      chmod 600 hf_token && rm -rf gvgap_jax && git clone -q gvgap_jax.bundle gvgap_jax && cd gvgap_jax &&
      uv venv -q --python 3.12 && uv pip install -q "jax[tpu]" -e ".[tldr,gcs]"'
}

run() {
  on_all_hosts "
    if kill -0 \"\$(cat tldr.pid)\" 2>/dev/null; then echo 'It is running.'; exit; fi
    export HF_TOKEN_PATH=\$HOME/hf_token
    cd gvgap_jax && source .venv/bin/activate &&
      python -m experiments doctor --platform tpu --extras tldr gcs --coordinator-port $PORT || exit 1
    nohup $COMMAND >>~/tldr.log 2>&1 </dev/null &
    echo \$! >~/tldr.pid"
}

resume() {
  local state
  state=$(tpus describe --format='value(state)' 2>/dev/null || echo NONE)
  case "$state" in
    READY) ;;
    NONE) create && install ;;
    PREEMPTED) delete && create && install ;;
    *) echo "$TPU is $state: try again in a minute." && exit 1 ;;
  esac
  run
}

log() { tpus ssh --worker=0 --command='tail -n 50 -F tldr.log'; }
stop() { on_all_hosts "kill -TERM \"\$(cat tldr.pid)\""; }
delete() { tpus delete --quiet; }

case "${1:-}" in
  create | install | run | log | resume | stop | delete) "$1" ;;
  *) sed -n '2,4s/^# //p' "$0" && exit 2 ;;
esac
