#!/bin/sh
# Proves the shell's network rooms on this kernel, in namespaces of its own: TUN, addresses, routes, rules, the exemption from a
# later masquerade, repair after a flush, nothing of others touched, nothing left. Needs root, iproute2, nftables, iptables, ping.
# Usage: [IPTABLES=iptables-legacy] tests/fabric.sh PATH-OF-THE-EXAMPLE-fabric
set -u
fabric=$1 host=net-host-$$ pod=net-pod-$$ out=$(mktemp -d) failed=0
# A namespace lives on with the last process in it, whatever became of its name.
end() { for n in $host $pod; do kill -KILL $(ip netns pids $n 2>/dev/null) 2>/dev/null; done; ip netns del $host 2>/dev/null; ip netns del $pod 2>/dev/null; rm -rf "$out"; }
trap end EXIT
trap 'exit 1' INT TERM
check() { if eval "$2"; then echo "ok    $1"; else echo "FAIL  $1"; failed=1; fi; }
on() { ip netns exec $host "$@"; }
inpod() { ip netns exec $pod "$@"; }
others() { on nft list ruleset 2> /dev/null | sed '/^table ip sluice {/,/^}/d'; }
until_true() { n=0; while ! eval "$1"; do n=$((n+1)); [ $n -gt 40 ] && return 1; sleep 0.05; done; echo "      after about $((n*50)) ms"; }

ip netns add $host; ip netns add $pod
ip link add cni0 netns $host type veth peer name eth0 netns $pod
on ip link set lo up; on ip link set cni0 up; on ip addr add 10.42.0.1/24 dev cni0
inpod ip link set lo up; inpod ip link set eth0 up; inpod ip addr add 10.42.0.5/24 dev eth0; inpod ip route add default via 10.42.0.1
on sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter'
# As flannel does it, and a table of somebody else's in nft's own words.
flannel() {
  on ${IPTABLES:-iptables} -t nat -N FLANNEL-POSTRTG; on ${IPTABLES:-iptables} -t nat -A POSTROUTING -j FLANNEL-POSTRTG
  on ${IPTABLES:-iptables} -t nat -A FLANNEL-POSTRTG -s 10.42.0.0/16 -d 10.42.0.0/16 -j RETURN
  on ${IPTABLES:-iptables} -t nat -A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
  on nft 'table inet other { chain c { type filter hook input priority 0; counter; }; set s { type ipv4_addr; elements = { 1.2.3.4 }; }; }'
}
flannel
others | sed 's/packets [0-9]* bytes [0-9]*//' > "$out/before"
on ip -4 addr > "$out/addr-before"; on ip route > "$out/route-before"

on "$fabric" sluice0 > "$out/log" 2>&1 & pid=$!
until_true 'grep -q ^up: "$out/log"' || { cat "$out/log"; exit 1; }
# The shell that runs in the background is the parent of the example itself.
run=$(pgrep -P $pid || echo $pid)
sed -n 's/^up: /      /p' "$out/log"
check "the node end is the primary address"        'on ip -o -4 addr show dev sluice0 scope global | grep -q "inet 10.70.0.1/32" && [ "$(on ip -o -4 addr show dev sluice0 scope global | wc -l)" = 1 ]'
check "control end and virtual node are local"     'on ip route show table local | grep -q "local 10.70.0.2 dev sluice0" && on ip route show table local | grep -q "local 10.70.3.1 dev sluice0"'
check "MTU and state"                              'on ip link show sluice0 | grep -q "UP.*mtu 1380"'
check "image and peer ends are routed into the TUN" '[ "$(on ip route show dev sluice0 | grep -c "proto 83 scope link src 10.70.0.1")" = 3 ]'
check "the host sends from its node end"           'on ip route get 10.71.0.9 | grep -q "dev sluice0 src 10.70.0.1"'
check "no IPv6 on the TUN, loose reverse path"     '[ -z "$(on ip -6 addr show dev sluice0)" ] && [ "$(on cat /proc/sys/net/ipv4/conf/sluice0/rp_filter)" = 2 ]'
check "nothing of others changed by starting"      'others | sed "s/packets [0-9]* bytes [0-9]*//" | cmp - "$out/before"'
on nft list table ip sluice | sed 's/^/      /'

check "a pod reaches an image"                     'inpod ping -qc1 -W1 10.71.0.9 > /dev/null'
check "and is seen with its own address"           'grep -q "saw type 8 10.42.0.5 -> 10.71.0.9" "$out/log"'
check "the host reaches an image as the node end"  'on ping -qc1 -W1 10.71.0.8 > /dev/null && grep -q "saw type 8 10.70.0.1 -> 10.71.0.8" "$out/log"'
check "a pod does not reach the control end"       '! inpod ping -qc1 -W1 10.70.0.2 > /dev/null'
check "nor a virtual node"                         '! inpod ping -qc1 -W1 10.70.3.1 > /dev/null'
check "the host itself reaches its virtual node"   'on ping -qc1 -W1 10.70.3.1 > /dev/null'
# Nobody has the port: an answer to one of the eight that come through may cost a later write.
inpod bash -c 'exec 3<> /dev/udp/10.42.0.1/51820; for kind in 4 1; do for i in $(seq 40); do printf "\00$kind\0\0\0 a call" >&3; done; done 2> /dev/null'
kill -USR1 "$run"; until_true 'grep -q ^dropped: "$out/log"'
check "from the tunnel: only the control end answers" '[ "$(grep -c "saw type 0" "$out/log")" = 1 ] && grep -q "saw type 0 10.70.0.2 -> 10.71.0.9" "$out/log"'
check "what was dropped was counted by reason"     'grep -Eq "dropped: Ok.Dropped . node_end: 1, external: 1, guarded: 2, calls: (2[4-9]|3[0-2]) " "$out/log"'

echo "-- nft flush ruleset, flannel's rules put back"
on nft flush ruleset; flannel; start=$(date +%s%N)
check "our table is back within 2 s"               'until_true "on nft list table ip sluice > /dev/null 2>&1"'
check "and a new flow is exempt"                   'inpod ping -qc1 -W1 10.71.0.7 > /dev/null && grep -q "saw type 8 10.42.0.5 -> 10.71.0.7" "$out/log"'
check "others have what they had"                  'others | sed "s/packets [0-9]* bytes [0-9]*//" | cmp - "$out/before"'
echo "-- with the daemon stopped and the rules gone, flannel masquerades: the exemption is what works"
kill -STOP "$run"; on nft delete table ip sluice; inpod ping -qc1 -W1 10.71.0.5 > /dev/null; kill -CONT "$run"
check "the pod is seen as the node end"            'until_true "grep -q \"saw type 8 10.70.0.1 -> 10.71.0.5\" \"$out/log\""'
check "our table is back within 2 s"               'until_true "on nft list table ip sluice > /dev/null 2>&1"'
echo "-- the exemption alone deleted"
on nft flush chain ip sluice exempt
check "the rule is back within 2 s"                'until_true "on nft list chain ip sluice exempt 2> /dev/null | grep -q snat"'
echo "-- our table deleted"
on nft delete table ip sluice
check "our table is back within 2 s"               'until_true "on nft list table ip sluice > /dev/null 2>&1"'
echo "-- a route, an address and the link taken away, a foreign address put on"
on ip route del 10.71.0.0/16; on ip addr del 10.70.0.2/32 dev sluice0; on ip addr add 10.99.0.1/24 dev sluice0
check "the route is back within 2 s"               'until_true "on ip route show 10.71.0.0/16 | grep -q src"'
check "the addresses too, and the foreign one gone" '[ "$(on ip -o -4 addr show dev sluice0 | wc -l)" = 3 ] && ! on ip addr | grep -q 10.99'
on ip addr del 10.70.0.1/32 dev sluice0
check "the primary address and its routes are back" 'until_true "[ \$(on ip route show dev sluice0 | grep -c \"src 10.70.0.1\") = 3 ]"'
check "it is the source again"                     'on ip route get 10.71.0.9 | grep -q "src 10.70.0.1" && on ping -qc1 -W1 10.71.0.6 > /dev/null'
on ip link set sluice0 down
check "the link is up again with its routes"       'until_true "[ \$(on ip route show dev sluice0 | wc -l) = 3 ]"'
echo "-- others' changes are nobody's business"
on ip addr add 192.0.2.1/24 dev cni0; on nft add rule inet other c drop comment '"theirs"'; sleep 1.2
check "they stand, and were noticed"               'on ip addr show cni0 | grep -q 192.0.2.1 && on nft list ruleset 2> /dev/null | grep -q theirs && tail -3 "$out/log" | grep -q "host_changed: true, links_restored: 0, rules_restored: false"'
on ip addr del 192.0.2.1/24 dev cni0; on nft delete table inet other; on nft 'table inet other { chain c { type filter hook input priority 0; counter; }; set s { type ipv4_addr; elements = { 1.2.3.4 }; }; }'
echo "-- less is wanted"
kill -HUP "$run"; sleep 0.3
check "what is no longer wanted is gone"           '! on ip route show 10.71.0.0/16 | grep -q . && ! on ip addr | grep -q 10.70.3.1'
echo "-- a second one on the same name"
check "is refused by name"                         '! on "$fabric" sluice0 > "$out/second" 2>&1 && grep -q "an interface sluice0 exists already" "$out/second"'
sed 's/^/      /' "$out/second"
echo "-- leaving"
kill -TERM "$run"; wait $pid; pid=
check "it says so"                                 'grep -q ^removed "$out/log"'
check "no rule, address or route is left"          'on nft list ruleset 2> /dev/null | sed "s/packets [0-9]* bytes [0-9]*//" | cmp - "$out/before" && on ip -4 addr | cmp - "$out/addr-before" && on ip route | cmp - "$out/route-before"'
echo "-- a foreign table of our name, a clashing route"
on nft 'table ip sluice { chain mine { }; }'
check "is refused"                                 '! on "$fabric" sluice0 > "$out/second" 2>&1 && grep -q "a table sluice that this program did not make" "$out/second"'
check "and stands"                                 'on nft list table ip sluice | grep -q "chain mine"'
on nft delete table ip sluice; on ip route add 10.71.0.0/16 via 10.42.0.5
on "$fabric" sluice0 > "$out/third" 2>&1 & pid=$!
until_true 'grep -q ^up: "$out/third"'; run=$(pgrep -P $pid || echo $pid)
check "the clash is named and costs nothing else"  'grep -q "a route to 10.71.0.0/16 already" "$out/third" && [ "$(on ip route show dev sluice0 | wc -l)" = 2 ] && on nft list table ip sluice > /dev/null'
check "and the route stands"                       'on ip route show 10.71.0.0/16 | grep -q "via 10.42.0.5"'
on ip route del 10.71.0.0/16
check "the prefix is ours once it is free"         'until_true "on ip route show 10.71.0.0/16 | grep -q sluice0"'
echo "-- kill -9, then a new start over what is left"
kill -KILL "$run"; wait $pid; pid=
check "the TUN is gone, the table is left"         '! on ip link show sluice0 > /dev/null 2>&1 && on nft list table ip sluice > /dev/null'
on "$fabric" sluice0 > "$out/fourth" 2>&1 & pid=$!
until_true 'grep -q ^up: "$out/fourth"'; run=$(pgrep -P $pid || echo $pid)
check "one whole table again"                      '[ "$(on nft list table ip sluice | grep -c comment)" = 10 ]'
on ip link del sluice0
check "an interface taken away is noticed"         'until_true "grep -q \"tun_gone: true\|^refused\" \"$out/fourth\""'
sed 's/^/      /' "$out/third" "$out/fourth" | cut -c1-220
grep -E "^tick|warn|info" "$out/log" | sed 's/^/      /' | head -20
[ $failed = 0 ] && echo "fabric: all held" || { echo "fabric: failed"; exit 1; }
