#!/bin/bash
# In a guest: measures four pairs of client and server round by round, and prints a table.
#
# Usage: measure_speed_in_guest.sh ROUNDS SECONDS ALWAYS_INVALIDATE RDMA_POLL CELLS   (see measure_speed)

source testing/shell_test.sh
source testing/guest/guest_lib.sh

readonly ROUNDS=$1 RUNTIME=$2 ALWAYS_INVALIDATE=$3 RDMA_POLL=$4 PATTERN=$5
readonly SAMPLES=/out/samples

# name, rw, block size, depth
readonly CELLS=(
  "4 KiB random read, depth 1:randread:4k:1"
  "4 KiB random write, depth 1:randwrite:4k:1"
  "4 KiB random read, depth 32:randread:4k:32"
  "4 KiB random write, depth 32:randwrite:4k:32"
  "128 KiB sequential read, depth 8:read:128k:8"
  "128 KiB sequential write, depth 8:write:128k:8"
)

start_rxe
modprobe fuse
# A disk each, for sharing one is refused.
modprobe brd rd_nr=4 rd_size=65536
for disk in /dev/ram{0,1,2,3}; do
  # Pages that were never written are not read from anywhere.
  dd if=/dev/urandom of="$disk" bs=1M count=64 oflag=direct status=none
done

poll_line=
[[ -z $RDMA_POLL ]] || poll_line="rdma_poll: $RDMA_POLL"
cat >"$TEST_DIR/server.yaml" <<YAML
listen: [{rdma: "[::]:1235", required: true}]
$poll_line
sessions: [{name: "*", dev_search_path: /dev, devices: ["ram*"]}]
YAML
cat >"$TEST_DIR/client.yaml" <<YAML
$poll_line
sessions:
  - name: own
    paths: ["ip:192.168.77.1"]
    heartbeat: {timeout: 30s}
    devices: [{path: dev/ram2, name: disk}]
  - name: both
    paths: ["ip:192.168.77.1:1235"]
    devices: [{path: ram3, name: both}]
YAML
mkdir "$TEST_DIR/mnt"
on_exit _leave_mount
_leave_mount() { ! mountpoint -q "$TEST_DIR/mnt" || umount --lazy "$TEST_DIR/mnt"; }

load_kernel_server always_invalidate="$ALWAYS_INVALIDATE"
load_kernel_client
start_daemon server rnbd-server --config "$TEST_DIR/server.yaml"
wait_until 20 grep -q "rnbd-server is ready" "$TEST_DIR/server.log"

declare -A file
map_device kernel /dev/ram0 192.168.77.1
file[kernel]=$mapped
map_device ours ram1 192.168.77.1 dest_port=1235
file["our server"]=$mapped
start_daemon client rnbd-fuse "$TEST_DIR/mnt" --config "$TEST_DIR/client.yaml" --foreground
wait_until 60 test -e "$TEST_DIR/mnt/disk"
wait_until 60 test -e "$TEST_DIR/mnt/both"
file["our client"]=$TEST_DIR/mnt/disk
file[ours]=$TEST_DIR/mnt/both
readonly TARGETS=(kernel "our server" "our client" ours)

# What all processors together have done since the start: hundredths of a second not idle, and switches of threads.
# The kernel's ends have no process whose time would tell.
machine() { awk '/^cpu / { busy = $2 + $3 + $4 + $7 + $8 } /^ctxt / { print busy, $2 }' /proc/stat; }
# Of our server's threads: hundredths of a second.
server_time() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/${daemon[server]}/stat"; }
# Requests of a target since the start.
requests() {
  case $1 in
    "our client") awk '{ sum += $1 + $3 } END { print sum }' /sys/class/rtrs-server/own/paths/*/stats/rdma ;;
    ours) awk '{ sum += $1 + $3 } END { print sum }' "$TEST_DIR"/mnt/sys/class/rtrs-client/both/paths/*/stats/rdma ;;
    *) awk '{ print $1 + $5 }' "/sys/block/${file[$1]#/dev/}/stat" ;;
  esac
}
_has_begun() { (($(requests "$1") > $2 + 3)); }

# measure CELL TARGET ROUND: a line of samples: requests a second, then for each request: microseconds of
# processor of the machine, microseconds of our server's, switches of threads.
measure() {
  local name rw size depth before after served begin fio
  IFS=: read -r name rw size depth <<<"$1"
  before=$(requests "$2")
  timeout --kill-after=5 $((RUNTIME + 60)) fio --name=cell --filename="${file[$2]}" --rw="$rw" --bs="$size" \
    --iodepth="$depth" --size=64m --ioengine=libaio --direct=1 --time_based --runtime="$RUNTIME" --randrepeat=0 \
    --eta=never --output-format=terse --terse-version=3 --output="$TEST_DIR/fio.log" &
  fio=$!
  # The start and the end of fio take longer here than what is measured, so they stay out.
  _try_for 50 _has_begun "$2" "$before"
  before=$(machine) served=$(server_time) begin=$(_microseconds)
  sleep "$(awk "BEGIN { print $RUNTIME * 0.8 }")"
  after=$(machine) served=$(($(server_time) - served)) begin=$(($(_microseconds) - begin))
  wait "$fio"
  awk -F';' -v cell="$name" -v target="$2" -v round="$3" -v us="$begin" -v before="$before" \
    -v after="$after" -v served="$served" '{
      iops = $8 + $49
      split(before, b, " "); split(after, a, " ")
      n = iops * us / 1e6
      printf "%s\t%s\t%d\t%d\t%.0f\t%.0f\t%.2f\n", cell, target, round, iops, (a[1] - b[1]) * 1e4 / n,
        served * 1e4 / n, (a[2] - b[2]) / n
    }' "$TEST_DIR/fio.log" >>"$SAMPLES"
}

for ((round = 1; round <= ROUNDS; ++round)); do
  for cell in "${CELLS[@]}"; do
    [[ ${cell%%:*} =~ $PATTERN ]] || continue
    for target in "${TARGETS[@]}"; do measure "$cell" "$target" "$round"; done
  done
  log "round $round of $ROUNDS"
done

show() {
  awk -F'\t' -v rounds="$ROUNDS" '
    function median(cell, target, column,    i, j, t, sorted) {
      for (i = 1; i <= rounds; ++i) sorted[i] = value[cell, target, i, column]
      for (i = 2; i <= rounds; ++i)
        for (j = i; j > 1 && sorted[j - 1] > sorted[j]; --j) { t = sorted[j]; sorted[j] = sorted[j - 1]; sorted[j - 1] = t }
      return rounds % 2 ? sorted[(rounds + 1) / 2] : (sorted[rounds / 2] + sorted[rounds / 2 + 1]) / 2
    }
    function compare(cell, target,    i, ratio, least, most) {
      for (i = 1; i <= rounds; ++i) {
        ratio = value[cell, target, i, 4] / value[cell, "kernel", i, 4]
        if (i == 1 || ratio < least) least = ratio
        if (i == 1 || ratio > most) most = ratio
      }
      return sprintf("%.2f (%.2f..%.2f)%s", median(cell, target, 4) / median(cell, "kernel", 4), least, most,
        least <= 1 && most >= 1 ? " no difference" : "")
    }
    !($1 in seen) { seen[$1]; cells[++count] = $1 }
    { for (i = 4; i <= 7; ++i) value[$1, $2, $3, i] = $i + 0 }
    END {
      print "| Requests a second | kernel on kernel | kernel on rnbd-server | ratio (rounds) | rnbd-fuse on kernel | ratio (rounds) | rnbd-fuse on rnbd-server | ratio (rounds) |"
      print "|---|---|---|---|---|---|---|---|"
      for (c = 1; c <= count; ++c)
        printf "| %s | %d | %d | %s | %d | %s | %d | %s |\n", cells[c], median(cells[c], "kernel", 4),
          median(cells[c], "our server", 4), compare(cells[c], "our server"), median(cells[c], "our client", 4),
          compare(cells[c], "our client"), median(cells[c], "ours", 4), compare(cells[c], "ours")
      print "\n| For each request | kernel on kernel: processor, switches | kernel on rnbd-server: processor (of it rnbd-server), switches | rnbd-fuse on kernel | rnbd-fuse on rnbd-server |"
      print "|---|---|---|---|---|"
      for (c = 1; c <= count; ++c)
        printf "| %s | %d us, %.1f | %d us (%d us), %.1f | %d us, %.1f | %d us (%d us), %.1f |\n", cells[c],
          median(cells[c], "kernel", 5), median(cells[c], "kernel", 7),
          median(cells[c], "our server", 5), median(cells[c], "our server", 6), median(cells[c], "our server", 7),
          median(cells[c], "our client", 5), median(cells[c], "our client", 7),
          median(cells[c], "ours", 5), median(cells[c], "ours", 6), median(cells[c], "ours", 7)
    }' "$SAMPLES"
}
show

stop_daemon client 10
unmap_device "${file[kernel]}"
unmap_device "${file["our server"]}"
wait_until 40 test ! -e /sys/class/rtrs-client/kernel
wait_until 40 test ! -e /sys/class/rtrs-client/ours
stop_daemon server
check_dmesg
