#!/bin/bash
# PostgreSQL on ext4 on a loop device, under pgbench, while the server, and the client's worker, are killed over and
# over: no transaction fails, and the database is whole.
#
# Usage: postgres_test.sh [SECONDS]   of pgbench; default: 40

source testing/shell_test.sh
in_private_mounts "$@"
require_fuse
require_loop
require mkfs.ext4 runuser
postgres=$(find /usr/lib/postgresql -name pg_amcheck 2>/dev/null | sort -V | tail -n 1)
[[ -n $postgres ]] || skip "PostgreSQL (14 or newer) is not installed"
postgres=$(dirname "$postgres")
id postgres >/dev/null 2>&1 || skip "there is no user postgres"
source testing/integration/remote_disk.sh

readonly RUN_SECONDS=${1:-40}
readonly KILL_EVERY=3
# Of PostgreSQL's user, who cannot get to $TEST_DIR where that lies below root's home.
place=$(mktemp -d /tmp/rnbd-test.XXXXXX)
on_exit rm -rf --one-file-system "$place"
chown postgres "$place"
readonly FS=$place/fs DATA=$place/fs/data

as_postgres() { (cd / && exec runuser -u postgres -- "$@"); }
psql() { as_postgres "$postgres/psql" -h "$place" -X -A -t -q -v ON_ERROR_STOP=1 -c "$1"; }
# As a service manager would: of a process that was killed the kernel may still have the socket for a moment.
serve_again() {
  start_daemon server "$RNBD_SERVER" --config "$TEST_DIR/server.yaml"
  until grep -q "rnbd-server is ready" "$TEST_DIR/server.log"; do kill -0 "${daemon[server]}" && sleep 0.05 || return; done
}
stop_postgres() { [[ ! -e $DATA/postmaster.pid ]] || as_postgres "$postgres/pg_ctl" stop -D "$DATA" -m immediate -W; }
leave_disk() { ! mountpoint -q "$FS" || umount --lazy "$FS"; }

make_images 1G disk.img
serve_images
case_start "a database under load"
start_client client "$TEST_DIR/mnt" <<YAML
sessions:
  - name: client
    paths: ["unix:$SOCKET"]
    devices:
      - path: disk.img
heartbeat: {interval: 300ms, timeout: 2s}
reconnect: {min: 50ms, max: 500ms}
YAML
client_pid=${daemon[client]}
attach "$TEST_DIR/mnt/disk.img"
run_bounded 60 mkfs.ext4 -q "$loop"
mkdir "$FS"
on_exit leave_disk
mount "$loop" "$FS"
chmod 755 "$FS"
mkdir "$DATA"
chown postgres "$DATA"
as_postgres "$postgres/initdb" -D "$DATA" --no-sync >"$TEST_DIR/initdb.log" 2>&1
on_exit stop_postgres
as_postgres "$postgres/pg_ctl" start -D "$DATA" -w -o "-k $place -c listen_addresses=''" -l "$place/log" >/dev/null
as_postgres "$postgres/pgbench" -h "$place" -i -s 4 -q >"$TEST_DIR/pgbench.log" 2>&1
as_postgres "$postgres/pgbench" -h "$place" -c 4 -T "$RUN_SECONDS" >"$TEST_DIR/pgbench.log" 2>&1 &
bench=$!
kills=0
while sleep "$KILL_EVERY" && kill -0 "$bench" 2>/dev/null; do
  worker=$(pgrep -P "$client_pid" -x rnbd-fuse) || true
  if [[ -n $worker ]] && ((kills % 2 == 0)); then
    log "kill -9 of the client's worker"
    kill -KILL "$worker"
  else
    log "kill -9 of the server"
    kill -KILL "${daemon[server]}"
    wait "${daemon[server]}" || true
    wait_until 10 serve_again
  fi
  ((++kills))
done
log "$kills kills"
((kills > 0)) || fail "pgbench has ended at once: $(cat "$TEST_DIR/pgbench.log")"
wait "$bench" || fail "pgbench has failed: $(cat "$TEST_DIR/pgbench.log")"
cat "$TEST_DIR/pgbench.log"
! grep -iE "aborted|failed transactions: [1-9]" "$TEST_DIR/pgbench.log" || fail "transactions failed"
! grep -E "PANIC|FATAL|could not (read|write|fsync)" "$place/log" || fail "PostgreSQL has had errors"
case_end

case_start "the database is whole"
balances=$(psql "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
  AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
  AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)")
[[ $balances == t ]] || fail "the balances differ"
as_postgres "$postgres/pg_amcheck" -h "$place" --all --install-missing --heapallindexed ||
  fail "pg_amcheck has found something"
as_postgres "$postgres/pg_ctl" stop -D "$DATA" -m fast -w >/dev/null
umount "$FS"
run_bounded 60 e2fsck -fn "$loop"
# As after a start from the disk.
mount "$loop" "$FS"
as_postgres "$postgres/pg_ctl" start -D "$DATA" -w -o "-k $place -c listen_addresses=''" -l "$place/log" >/dev/null
[[ $(psql "SELECT count(*) FROM pgbench_history") -gt 0 ]] || fail "the history is empty"
as_postgres "$postgres/pg_ctl" stop -D "$DATA" -m fast -w >/dev/null
umount "$FS"
detach
stop_daemon client
case_end
