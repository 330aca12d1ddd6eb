#!/usr/bin/env bash
# Makes this machine a Slurm cluster of one node, to try launch/slurm.sbatch and launch/sweep.sh: Debian's packages, root.
#   launch/slurm_here.sh start | stop
# State and logs: SLURM_HERE, default /var/tmp/slurm_here. Replaces /etc/slurm/slurm.conf, which must be absent or ours.
set -euo pipefail
folder=${SLURM_HERE:-/var/tmp/slurm_here}
conf=/etc/slurm/slurm.conf
mark="# made by mnistlab's launch/slurm_here.sh"

stop() {
  local name
  for name in slurmd slurmctld munged; do
    [ ! -s "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2> /dev/null || true
  done
}

case ${1:-} in
  stop)
    stop
    exit
    ;;
  start) ;;
  *)
    sed -n '2,4s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
[ ! -e $conf ] || grep -q "^$mark" $conf || { echo "error: $conf is not ours; Slurm is set up here already" >&2; exit 2; }
command -v slurmctld > /dev/null || apt-get install --yes --quiet slurm-wlm
mkdir -p "$folder"/{state,spool} /etc/slurm /run/munge
chown munge: /run/munge
cores=$(nproc)
cat > $conf << END
$mark
ClusterName=here
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
# Seconds between SIGTERM and SIGKILL: longer than an epoch.
KillWait=60
SchedulerParameters=sched_interval=2,batch_sched_delay=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES OverSubscribe=FORCE:4 State=UP
END
runuser -u munge -- /usr/sbin/munged
cp /run/munge/munged.pid "$folder/" 2> /dev/null || true
slurmctld
slurmd
for _ in $(seq 30); do
  if [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ]; then
    sinfo
    exit
  fi
  sleep 1
done
echo "error: the node did not come up; see $folder/*.log" >&2
exit 1
