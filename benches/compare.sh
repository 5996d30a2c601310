#!/usr/bin/env bash
# Compares this server with vblade, on one machine, over virtual cables in a network namespace of
# its own: reads of 2 sectors at MTU 1500 and of 16 at MTU 9000 with 1, 16 and 64 in flight, and
# durable writes of 4 KiB with 64 in flight against `vblade -s`.
#
# The servers have CPU 0, the load generator (`aoe-server bench`) has CPU 1. Each round measures
# every server once, one right after the other, so that whatever else the machine does hits all
# alike: believe the ratios, not the numbers. What is printed are medians over the rounds.
#
#   benches/compare.sh [--rounds N] [--seconds S] [--json FILE]
#
# The images are made in $TMPDIR (/var/tmp when unset), which should be on the disk that the writes
# are to be measured on. AOE_SERVER names the binary; without it a release build is made first.
set -euo pipefail

rounds=5
seconds=1
json=target/compare.json
while [ $# -gt 0 ]; do
    case "$1" in
    --rounds) rounds=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --json) json=$2 && shift 2 ;;
    *)
        sed -n 's/^#   //p' "$0" >&2
        exit 2
        ;;
    esac
done

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
mkdir -p "$(dirname "$json")"

# vblade lives in /usr/sbin, which is not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin
if ! command -v vblade >/dev/null; then
    echo "installing vblade" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get install -y -q vblade >&2
fi

if [ -z "${AOE_SERVER:-}" ]; then
    cargo build --release --quiet
    AOE_SERVER=${CARGO_TARGET_DIR:-$root/target}/release/aoe-server
fi
export AOE_SERVER

if [ "$(nproc)" -lt 2 ]; then
    echo "two CPUs are needed, one for the servers and one for the load generator" >&2
    exit 1
fi

# Once more, in a network namespace where nothing else is.
if [ -z "${COMPARE_INSIDE:-}" ]; then
    map=()
    [ "$(id -u)" = 0 ] || map=(--map-root-user)
    COMPARE_INSIDE=1 exec unshare "${map[@]}" --net -- \
        "$0" --rounds "$rounds" --seconds "$seconds" --json "$json"
fi

export TMPDIR=${TMPDIR:-/var/tmp}
work=$(mktemp -d "$TMPDIR/aoe-compare.XXXXXX")
pids=()
stop_servers() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    pids=()
}
trap 'stop_servers; rm -rf "$work"' EXIT
if [ "$(stat -f -c %T "$work")" = tmpfs ]; then
    echo "warning: $work is in memory; set TMPDIR to a directory on a disk" >&2
fi

servers=(vblade pcap af-packet)
declare -A slot=([vblade]=1 [pcap]=2 [af-packet]=3)

# One cable for each server: none hears what is meant for another.
cables() {
    local mtu=$1 server
    for server in "${servers[@]}"; do
        local number=${slot[$server]}
        ip link del "s$number" 2>/dev/null || true
        ip link add "s$number" mtu "$mtu" type veth peer name "c$number" mtu "$mtu"
        ip link set "s$number" up
        ip link set "c$number" up
    done
}

# An image of its own for each server, with blocks allocated and in the page cache.
images() {
    local server
    for server in "${servers[@]}"; do
        dd if=/dev/zero of="$work/$server.img" bs=1M count=128 conv=fsync status=none
    done
}

configure() {
    local server=$1 number=${slot[$1]}
    cat >"$work/$server.toml" <<TOML
[server]
interface = "s$number"
link = "$server"
state_dir = "$work/$server.state"
probe = false
log_level = "error"

[[target]]
shelf = 1
slot = $number
backend = "file"
path = "$work/$server.img"
buffer_count = 64
TOML
}

start() {
    local server=$1 number=${slot[$1]} tries
    if [ "$server" = vblade ]; then
        # shellcheck disable=SC2086 # the flags are meant to be split
        taskset -c 0 vblade ${2:-} -b 64 1 "$number" "s$number" "$work/vblade.img" \
            >"$work/vblade.log" 2>&1 &
    else
        configure "$server"
        taskset -c 0 "$AOE_SERVER" serve --config "$work/$server.toml" \
            >"$work/$server.log" 2>&1 &
    fi
    pids+=($!)
    for tries in $(seq 100); do
        if "$AOE_SERVER" bench -i "c$number" --timeout-ms 100 --count 1 "e1.$number" \
            >/dev/null 2>&1; then
            return
        fi
        kill -0 "${pids[-1]}" 2>/dev/null || break
    done
    echo "$server does not serve (after $tries tries):" >&2
    cat "$work/$server.log" >&2
    exit 1
}

# Measures one server once; appends requests per second and p50 latency to its file.
measure() {
    local name=$1 server=$2 kind=$3
    shift 3
    local number=${slot[$server]} line
    line=$(taskset -c 1 "$AOE_SERVER" bench -i "c$number" --json --seconds "$seconds" "$@" \
        "e1.$number") || {
        echo "$name, $server: some requests failed: $line" >&2
        exit 1
    }
    local rate p50 again
    rate=$(sed -E 's/.*"requests_per_second":([0-9.e+]+).*/\1/' <<<"$line")
    p50=$(sed -E "s/.*\"${kind}_latency_us\":\\{[^}]*\"p50\":([0-9.]+).*/\\1/" <<<"$line")
    again=$(sed -E 's/.*"retransmissions":([0-9]+).*/\1/' <<<"$line")
    echo "$rate" >>"$work/$name.$server.rate"
    echo "$p50" >>"$work/$name.$server.p50"
    echo "$again" >>"$work/$name.$server.again"
}

median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
total() { awk '{ sum += $1 } END { print sum + 0 }' "$1"; }

cells=()
section() { # name prefix, MTU, vblade flag, then the kind and the bench arguments of each cell
    local prefix=$1 mtu=$2 flag=$3 kind=$4 sectors=$5
    shift 5
    local depths=("$@") depth server round
    cables "$mtu"
    for server in "${servers[@]}"; do start "$server" "$flag"; done
    local load=(--sectors "$sectors")
    [ "$kind" = read ] || load+=(--write-percent 100 --destroy)
    for depth in "${depths[@]}"; do cells+=("$prefix-$depth"); done
    for round in $(seq "$rounds"); do
        echo "$prefix: round $round of $rounds" >&2
        for depth in "${depths[@]}"; do
            for server in "${servers[@]}"; do
                measure "$prefix-$depth" "$server" "$kind" --depth "$depth" "${load[@]}"
            done
        done
    done
    stop_servers
}

images
section read-2-sectors-mtu-1500-depth 1500 "" read 2 1 16 64
section read-16-sectors-mtu-9000-depth 9000 "" read 16 1 16 64
section durable-write-4-KiB-mtu-9000-depth 9000 -s write 8 64

report() {
    echo "| load | vblade | pcap | af-packet | pcap / vblade | af-packet / vblade |"
    echo "| --- | --: | --: | --: | --: | --: |"
    local name server values
    for name in "${cells[@]}"; do
        values=()
        for server in "${servers[@]}"; do
            values+=("$(median "$work/$name.$server.rate")" "$(median "$work/$name.$server.p50")")
        done
        awk -v name="$name" -v row="${values[*]}" 'BEGIN {
            gsub("-", " ", name); split(row, v, " ")
            printf "| %s", name
            for (i = 1; i <= 5; i += 2) printf " | %d/s, %.1f us", v[i], v[i + 1]
            printf " | %.2f | %.2f |\n", v[3] / v[1], v[5] / v[1]
        }'
    done
}

as_json() {
    local name server first=1
    printf '{"rounds":%s,"seconds":%s,"kernel":"%s","cells":[' "$rounds" "$seconds" "$(uname -r)"
    for name in "${cells[@]}"; do
        for server in "${servers[@]}"; do
            [ -n "$first" ] || printf ','
            first=
            printf '{"load":"%s","server":"%s","requests_per_second":%s,"p50_us":%s,"retransmissions":%s}' \
                "$name" "$server" "$(median "$work/$name.$server.rate")" \
                "$(median "$work/$name.$server.p50")" "$(total "$work/$name.$server.again")"
        done
    done
    printf ']}\n'
}

report
as_json >"$json"
echo "also written as JSON to $json" >&2
