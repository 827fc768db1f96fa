#!/usr/bin/env bash
# A real S3 server for tests: Ceph's radosgw over one monitor and one OSD that keeps its data in memory.
#
#   tests/servers/ceph_rgw.sh DIR PORT
#
# Prints one line, the endpoint, when it answers (10 to 20 s), and serves until its standard input
# ends or it gets a signal; then it stops its three daemons and removes DIR. A test run that is killed
# closes the pipe, so nothing is ever left behind. The ports used are PORT, PORT+1 and PORT+2, all on
# loopback. Any user may run it. Keys: CEPH_ACCESS_KEY (AKIDTEST), CEPH_SECRET_KEY (SECRETTEST).
#
# Needs ceph-mon, ceph-osd and radosgw (Debian packages of these names). Choices that look odd:
# radosgw refuses to run without cephx, so there are keys; one OSD on one host needs size 1,
# chooseleaf type 0 and the allowance for pools without redundancy; radosgw makes many pools, hence
# the high limit of placement groups; memory OSDs report a full disk when the host's own is nearly
# full, hence mon_data_avail_crit.
set -euo pipefail

dir=$(realpath -m "${1:?folder}")
port=${2:?port}
mon_v2=$((port + 1))
mon_v1=$((port + 2))
export CEPH_ARGS="--conf $dir/ceph.conf"
daemons=()

# The state is thrown away, so there is nothing for a daemon to save.
stop() {
  trap - EXIT INT TERM HUP
  local daemon
  for daemon in "${daemons[@]}"; do kill -9 "$daemon" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}

# Says on the script's own standard error (descriptor 9) what went wrong, with the ends of the logs.
fail() {
  {
    echo "ceph_rgw.sh: $1"
    tail -n 5 "$dir"/log/*.out
  } >&9 2>&1 || true
  exit 1
}

# Runs a command until it succeeds, at most 30 s.
until_it_works() {
  for _ in $(seq 60); do
    if timeout 10 "$@" >"$dir/log/last.out" 2>&1 </dev/null; then return 0; fi
    sleep 0.5
  done
  fail "still failing after 30 s: $*"
}

# Starts a daemon: its name, then the command.
start() {
  local name=$1
  shift
  "$@" >"$dir/log/$name.out" 2>&1 </dev/null 9>&- &
  daemons+=($!)
}

write_config() {
  cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon_v2,v1:127.0.0.1:$mon_v1]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = $dir/keyring
run_dir = $dir/run
admin_socket = $dir/run/\$name.asok
log_file = $dir/log/\$name.log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
setuser_match_path = /nonexistent
[mon]
mon_data = $dir/mon
mon_data_avail_crit = 1
auth_allow_insecure_global_id_reclaim = true
[osd]
osd_data = $dir/osd
keyring = $dir/osd/keyring
osd_objectstore = memstore
memstore_device_bytes = ${CEPH_BYTES:-4294967296}
memstore_page_set = false
[client.rgw]
keyring = $dir/rgw/keyring
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_enable_usage_log = false
rgw_enable_ops_log = false
CONF
}

start_monitor() {
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
  monmaptool --create --fsid "$fsid" \
    --addv a "[v2:127.0.0.1:$mon_v2,v1:127.0.0.1:$mon_v1]" "$dir/monmap"
  ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
  start mon ceph-mon -i a -f
  until_it_works ceph quorum_status
}

start_osd() {
  local uuid secret
  uuid=$(cat /proc/sys/kernel/random/uuid)
  secret=$(ceph-authtool --gen-print-key)
  printf '{"cephx_secret": "%s"}' "$secret" >"$dir/osd.json"
  until_it_works ceph osd new "$uuid" 0 -i "$dir/osd.json"
  ceph-authtool --create-keyring "$dir/osd/keyring" --name osd.0 --add-key "$secret"
  ceph-osd -i 0 --mkfs --osd-uuid "$uuid"
  start osd ceph-osd -i 0 -f
  until_it_works ceph osd crush add 0 1.0 root=default host=localhost
}

start_gateway() {
  timeout 120 radosgw-admin user create --uid=test --display-name=test \
    --access-key="${CEPH_ACCESS_KEY:-AKIDTEST}" --secret-key="${CEPH_SECRET_KEY:-SECRETTEST}"
  until_it_works ceph auth get-or-create client.rgw mon 'allow rw' osd 'allow rwx' \
    -o "$dir/rgw/keyring"
  start rgw radosgw -n client.rgw -f
  for _ in $(seq 120); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
    kill -0 "${daemons[-1]}" 2>/dev/null || fail "radosgw ended"
    sleep 0.25
  done
  fail "radosgw does not answer"
}

exec 9>&2
trap stop EXIT
trap 'exit 130' INT TERM HUP
rm -rf "$dir"
mkdir -p "$dir"/{mon,osd,log,run,rgw}
fsid=$(cat /proc/sys/kernel/random/uuid)
write_config
{
  start_monitor
  start_osd
  start_gateway
} >"$dir/log/setup.out" 2>&1 || fail "could not start"
echo "http://127.0.0.1:$port"
# A shell runs its traps only between commands, but also while it waits for a background one.
cat <&0 >/dev/null &
daemons+=($!)
wait $! || true
