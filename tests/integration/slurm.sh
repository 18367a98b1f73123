#!/bin/sh
# Starts or stops a Slurm of three nodes on this machine for the tests, as root: `slurm.sh start FOLDER PORT`, then the line
# that it prints. It takes four ports from PORT on. Installs slurm-wlm and munge where they are missing. FOLDER must be short:
# a socket lies in it. The nodes are named by loopback addresses, so that their names mean something to others.
set -eu
command=${1:-}
folder=${2:?FOLDER}
nodes="127.0.0.1 127.0.0.2 127.0.0.3"
host=$(hostname -s)

case $command in
start)
    if ! command -v slurmctld >/dev/null; then
        {
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge
        } >&2
    fi
    mkdir -p "$folder" && cd "$folder"
    chmod 755 "$folder"
    head -c 1024 /dev/urandom >munge.key
    chown munge munge.key && chmod 400 munge.key
    mkdir -p munge && chown munge munge && chmod 755 munge
    setpriv --reuid munge --regid munge --clear-groups munged --force --key-file "$folder/munge.key" \
        --socket "$folder/munge/socket" --pid-file "$folder/munge/pid" --log-file "$folder/munge/log" \
        --seed-file "$folder/munge/seed"
    cat >slurm.conf <<EOF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$3
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=60
SchedulerParameters=bf_interval=5,sched_interval=5
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
SlurmdParameters=config_overrides
EOF
    port=$3
    for node in $nodes; do
        port=$((port + 1))
        echo "NodeName=$node NodeHostname=$host NodeAddr=$node Port=$port CPUs=4 RealMemory=1000" >>slurm.conf
    done
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    for node in $nodes; do slurmd -N "$node"; done
    echo "export SLURM_CONF=$folder/slurm.conf"
    ;;
stop)
    for pid in "$folder"/slurmd-*.pid "$folder"/slurmctld.pid "$folder"/munge/pid; do
        [ ! -s "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$folder"
    ;;
*)
    echo "usage: $0 start FOLDER PORT | stop FOLDER" >&2
    exit 2
    ;;
esac
