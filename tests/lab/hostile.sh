# hostile.sh, sourced after story.sh and peering.sh by the stories of attacks.
#
#   counted NAME AT REASON          how often that was refused since the daemon began, by its metrics; AT as in `sluice status -o json`, .refused
#   mark NAME; rose NAME AT REASON [N]   it was refused at least N times (1) more than at the last mark
#   untouched_before NAME; untouched NAME    what the side holds is what it held
#
# mallory: a peer that keeps to no rule, with a WireGuard (wireguard-go) whose packets nothing of ours checks, in a namespace of its own
# on edge's machine, behind the NAT. Whatever is sent in the namespace goes into the tunnel.
#   mallory_up; mallory_down
#   mallory_enrols TICKET [BIT]     the session of a ticket; then ask and enrol (below)
#   mallory_peers KEYS              the session of a key that was enrolled (KEYS as `app key` prints them)
#   mallory COMMAND...              in its namespace
metrics() { lab exec "$1" curl -s -m5 http://127.0.0.1:51820/metrics; }
series() { # AT REASON
  case $1 in
    tunnel) echo "sluice_tunnel_drops_total{reason=\"$2\"}";;
    rules) echo "sluice_rule_drops_total{rule=\"$2\"}";;
    control) echo "sluice_refusals_total{reason=\"$2\"}";;
    offload) echo "sluice_offload_refusals_total{reason=\"$2\"}";;
    listener) echo "sluice_connection_refusals_total{door=\"control\",reason=\"$2\"}";;
    socket) echo "sluice_connection_refusals_total{door=\"local\",reason=\"$2\"}";;
  esac
}
valued() { awk -v s="$1" '$1 == s {n = $2} END{print n + 0}'; }
counted() { metrics "$1" | valued "$(series "$2" "$3")"; }
declare -A marked kept_as
mark() { marked[$1]=$(metrics "$1"); }
rose() {
  local now before; now=$(counted "$1" "$2" "$3")
  before=$(valued "$(series "$2" "$3")" <<< "${marked[$1]}")
  echo "$2 $3: $before, now $now"; [ $((now - before)) -ge "${4:-1}" ]
}
grew() { local name=$1; shift; check "$name: counted as $2" within 5 rose "$name" "$1" "$2" "${3:-1}"; }
# The control ends of enrolments and farewells come and go by themselves, within half a minute
holds() { holdings "$1" | grep -v '^10\.70\.1\.[0-9]* proto'; }
untouched_before() { kept_as[$1]=$(holds "$1"); }
untouched() {
  local now limit=$((SECONDS + 20)) t; t=$(stamp)
  while now=$(holds "$1"); [ "$now" != "${kept_as[$1]}" ]; do
    [ $SECONDS -lt $limit ] || { result FAIL "$1 holds what it held" "$(after "$t")" "$(diff <(echo "${kept_as[$1]}") <(echo "$now") | grep '^[<>]' | tr '\n' ' ' | cut -c1-300)"; return 1; }
    sleep 0.5
  done
  result ok "$1 holds what it held" "$(after "$t")" "$(wc -l <<< "$now") lines"
}

link_control=169.254.18.1 control_port=5870
mallory() { lab exec edge ip netns exec mallory "$@"; }
mallory_up() {
  lab exec edge bash -c 'install -d -o nobody /run/wireguard; install "$1" /run/wireguard-go; ip netns add mallory; ip -n mallory link set lo up
    setsid setpriv --reuid nobody --regid nogroup --clear-groups --inh-caps +net_admin,+dac_override --ambient-caps +net_admin,+dac_override \
      /run/wireguard-go -f mallory > /run/mallory.log 2>&1 < /dev/null & echo $! > /run/mallory.pid
    for i in $(seq 100); do [ -S /run/wireguard/mallory.sock ] && break; sleep 0.05; done; ip link set mallory netns mallory' - "$(. "$lab_dir/paths.sh"; echo "$wireguard_dir/wireguard")"
}
mallory_down() { lab exec edge bash -c '[ ! -e /run/mallory.pid ] || kill $(cat /run/mallory.pid); rm -f /run/mallory.pid; ip netns del mallory; rm -f /run/wireguard/mallory.sock' > /dev/null 2>&1; }
# KEYS PRESHARED ADDRESS...
mallory_is() {
  local keys=$1 preshared=$2; shift 2
  bearer=$(jq -r .bearer <<< "$keys")
  { printf '[Interface]\nPrivateKey = %s\n[Peer]\nPublicKey = %s\nAllowedIPs = 0.0.0.0/0\nEndpoint = 203.0.113.10:51820\nPersistentKeepalive = 2\n' "$(jq -r .secret <<< "$keys")" "$(jq -r .inviter <<< "$keys")"
    [ -z "$preshared" ] || printf 'PresharedKey = %s\n' "$preshared"; } > "$dir/mallory.conf"
  lab exec edge bash -c 'wg setconf mallory "$1"; shift; ip -n mallory link set mallory down; ip -n mallory addr flush dev mallory; for a; do ip -n mallory addr add "$a/32" dev mallory; done
    ip -n mallory link set mallory mtu 1400 up; ip -n mallory route replace default dev mallory' - "$dir/mallory.conf" "$@"
}
mallory_enrols() { local keys; keys=$(app edge ticket "$@"); mallory_is "$keys" "$(jq -r .preshared <<< "$keys")" 169.254.18.2; }
# The pods that it claims to have are those of mallory_pods
mallory_pods=10.66.0.0/16 mallory_pod=10.66.0.5
mallory_peers() { mallory_is "$1" "" 169.254.18.2 169.254.18.18 "$mallory_pod"; }
mallory_linked() { lab exec edge wg show mallory latest-handshakes | grep -vqP '\t0$'; }
# ask METHOD PATH [JSON [BEARER]]: inside its tunnel, at home's control end; prints status, reason and message
ask() {
  local answer; answer=$(mktemp -p "$dir")
  mallory curl -s -m "${patience:-25}" -o "$answer" -w '%{http_code}' -X "$1" -H "Authorization: Bearer ${4-$bearer}" -d "${3:-{\}}" "http://$link_control:$control_port$2"
  echo " $(jq -r '"\(.reason // "") \(.message // "")"' "$answer" 2> /dev/null)"
  [ "${5:-}" != keep ] || cp "$answer" "$dir/answer"
}
# enrol KEYS ID PREFIXES [JSON merged in]
enrol() {
  local body; body=$(jq -nc --argjson k "$1" --arg i "$2" --arg p "$3" --argjson more "${4:-{\}}" '{version:1,id:$i,key:$k.key,proof:$k.bearer,prefixes:($p/","),architecture:"amd64",consume:false,provide:null} + $more')
  ask POST /v1/enrol "$body"
}

# Pods of a namespace `attack`: pod_at NAME [host] makes one (with host: on the host's network), in_pod NAME [host] COMMAND... runs something in it
attackers() {
  local n; for n in home edge; do
    kube $n create namespace attack > /dev/null 2>&1
    { pod inside '{}' '{"command":["/app","pause"]}'; pod outside '{"hostNetwork":true}' '{"command":["/app","pause"]}'; } | on $n attack apply -f - > /dev/null
  done
  for n in home edge; do check "$n: a pod and one on the host's network run" within 60 on $n attack wait --for=condition=Ready pod/inside pod/outside --timeout=60s; done
}
attackers_gone() { local n; for n in home edge; do kube $n delete namespace attack --wait=false > /dev/null 2>&1; done; }
in_pod() { on "$1" attack exec "$2" -- "${@:3}"; }
# The ends of a peer of NAME, as that host knows them: control (1) or node (2), by the place that its virtual node's address (3) has
ends_of() { lab exec "$1" ip -o -4 addr show dev sluice0 | awk '{sub("/.*","",$4); print $4}' | grep '^10\.70\.3\.' | head -1 | sed "s/^10\.70\.3/10.70.$2/"; }
peers_end() { ends_of "$1" 1; }
