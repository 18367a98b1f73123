#!/bin/sh
# Starts or stops a Docker Engine for the tests, as root: `tests/verifier/docker_engine.sh start [FOLDER [DOCKERD OPTIONS]]`, then
# the line that it prints. Installs docker.io where there is no dockerd. Nothing is pulled: the judge makes its image from this
# machine. Where crun is installed the engine offers it beside runc (--runtime crun).
set -eu
command=${1:-}
folder=${2:-/tmp/nouscoder-dockerd}
if [ $# -ge 2 ]; then shift 2; else set --; fi
socket=unix://$folder/docker.sock

# A process that its parent does not wait for stays a zombie, and its pid file blocks the next start.
alive() {
    test -s "$1" && ps -o stat= -p "$(cat "$1")" 2>/dev/null | grep -qv '^Z'
}

running() {
    alive "$folder/docker.pid"
}

# crun refuses a machine with both kinds of cgroups: the engine gets a view of it without the second.
launch() {
    if [ -d /sys/fs/cgroup/unified ] && command -v crun >/dev/null; then
        exec unshare -m --propagation slave sh -c 'umount /sys/fs/cgroup/unified; exec "$@"' sh "$@"
    fi
    exec "$@"
}

case $command in
start)
    if ! command -v dockerd >/dev/null; then
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io; } >&2
    fi
    mkdir -p "$folder"
    if ! running; then
        rm -f "$folder/docker.pid"
        # A containerd that outlived its dockerd does not see what the next one mounts.
        if alive "$folder/exec/containerd/containerd.pid"; then kill -9 "$(cat "$folder/exec/containerd/containerd.pid")"; fi
        rm -f "$folder/exec/containerd/containerd.pid"
        crun=$(command -v crun || true)
        echo "{\"runtimes\": {${crun:+\"crun\": {\"path\": \"$crun\"\}}}}" >"$folder/daemon.json"
        launch setsid nohup dockerd --config-file "$folder/daemon.json" --data-root "$folder/root" \
            --exec-root "$folder/exec" -H "$socket" --pidfile "$folder/docker.pid" --iptables=false \
            --ip6tables=false --bridge=none --log-level warn "$@" </dev/null >>"$folder/log" 2>&1 &
    fi
    tries=0
    until DOCKER_HOST=$socket docker version >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ]; then
            echo "dockerd does not answer; the end of $folder/log:" >&2
            tail -5 "$folder/log" >&2
            exit 1
        fi
        sleep 0.2
    done
    echo "export DOCKER_HOST=$socket"
    ;;
stop)
    if running; then
        kill "$(cat "$folder/docker.pid")"
        while running; do sleep 0.2; done
    fi
    # What an engine that was killed leaves: its containers' shims, and its folder mounted on itself.
    for pid in $(ps -ewwo pid=,args= | awk -v folder="$folder/" '/containerd-shim/ && index($0, folder) { print $1 }'); do
        pkill -9 -P "$pid" 2>/dev/null || true  # the container's first process
        kill -9 "$pid" 2>/dev/null || true  # awk finds itself as well
    done
    if alive "$folder/exec/containerd/containerd.pid"; then kill -9 "$(cat "$folder/exec/containerd/containerd.pid")"; fi
    if mountpoint -q "$folder/root"; then umount "$folder/root"; fi
    ;;
*)
    echo "usage: $0 start|stop [FOLDER [DOCKERD OPTIONS]]" >&2
    exit 2
    ;;
esac
