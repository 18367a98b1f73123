#!/usr/bin/env bash
# A run on two or more machines by ssh, one process on each; the first one is the head.
#
#   configs/launch/two_machines.sh gpu1 gpu2 --config configs/dapo.py --run-dir /shared/runs/mine --mesh.data 2
#   configs/launch/two_machines.sh gpu1 gpu2 --resume /shared/runs/mine
#
# This folder, its environment and the run folder must be on all of them under the same path. Ctrl-C ends the run in
# order. PORT: where the head listens, PYTHON: of every process, SSH: what reaches a machine.
set -euo pipefail
PORT=${PORT:-8476} PYTHON=${PYTHON:-.venv/bin/python} SSH=${SSH:-ssh -o BatchMode=yes}

hosts=()
while [ $# -gt 0 ] && [[ $1 != --* ]]; do
    hosts+=("$1")
    shift
done
if [ ${#hosts[@]} -lt 2 ]; then
    echo "error: got ${#hosts[@]} machines; name two or more, then the arguments of scripts/train.py: see the top of $0" >&2
    exit 2
fi
command=$(printf '%q ' "$PYTHON" scripts/train.py "$@" --mesh.num-processes "${#hosts[@]}")

ends=() processes=()
stop() { # a machine whose input ends passes SIGTERM on
    trap - INT TERM
    for end in "${ends[@]}"; do exec {end}>&-; done
}
for process in "${!hosts[@]}"; do
    pipe=$(mktemp -u)
    mkfifo "$pipe"
    # What a shell starts in the background reads nothing unless it is told what, hence the 3.
    remote="cd $(printf %q "$PWD") || exit 2
        exec 3<&0
        JAX_COORDINATOR_ADDRESS=${hosts[0]}:$PORT NOUSCODER_PROCESS_ID=$process $command 3<&- &
        process=\$!
        { cat <&3; kill -TERM \$process; } >/dev/null 2>&1 &
        watch=\$!
        wait \$process; code=\$?
        kill \$watch 2>/dev/null
        exit \$code"
    # In a group of its own: Ctrl-C reaches this script, which ends all of them in order.
    (
        for end in "${ends[@]}"; do exec {end}>&-; done
        exec setsid $SSH "${hosts[$process]}" "$remote"
    ) <"$pipe" &
    processes+=($!)
    exec {end}>"$pipe"
    ends+=("$end")
    rm "$pipe"
done
trap stop INT TERM

code=0
for process in "${processes[@]}"; do
    while true; do # a signal that is trapped interrupts `wait`
        ended=0
        wait "$process" || ended=$?
        kill -0 "$process" 2>/dev/null || break
    done
    [ $ended -eq 0 ] || [ $code -ne 0 ] || code=$ended
done
exit $code
