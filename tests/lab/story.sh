# story.sh, sourced by every story: checks that wait for a condition up to a deadline, and tell what they saw.
#
#   check "what" [within SECONDS] COMMAND...     ok as soon as COMMAND succeeds, FAIL when it has not in time (default 20)
#   refuse "what" COMMAND...                     ok if COMMAND fails, at once
#   same "what" WANT GOT                         ok if both are the same text
#   figure "what" VALUE                          a number for the record
#   tell "what"                                  what happens next
#   lab ...; home ...; edge ...                  the lab's commands; kubectl on one side
# A command's last line of output is shown beside the check. Each check is a line in LAB_RESULTS, which `run` counts.
set -uo pipefail
lab_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab() { "$lab_dir/lab" "$@"; }
home() { lab kubectl home "$@"; }
edge() { lab kubectl edge "$@"; }
far() { lab kubectl far "$@"; }
app() { lab exec "$1" app "${@:2}"; }
stamp() { date +%s.%N; }
after() { awk -v a="$1" -v b="$(stamp)" 'BEGIN{printf "%.1f", b-a}'; }
tell() { printf '  %s\n' "$*"; }
figure() { printf '  figure  %-62s %s\n' "$1" "$2"; [ -z "${LAB_FIGURES:-}" ] || printf '%s\t%s\n' "$1" "$2" >> "$LAB_FIGURES"; }
result() { # ok|FAIL WHAT SECONDS DETAIL
  printf '  %-4s  %-62s %6s s  %s\n' "$1" "$2" "$3" "$4"
  [ -z "${LAB_RESULTS:-}" ] || printf '%s\t%s\t%s\n' "$1" "$(basename "$0")" "$2" >> "$LAB_RESULTS"
  [ "$1" = ok ] || failed=$((failed + 1))
}
failed=0
check() {
  local what=$1 limit=20 t out; shift
  [ "$1" != within ] || { limit=$2; shift 2; }
  t=$(stamp)
  while :; do
    if out=$("$@" 2>&1); then result ok "$what" "$(after "$t")" "$(tail -n 1 <<< "$out" | cut -c1-90)"; return 0; fi
    [ "$(awk -v s="$(after "$t")" -v l="$limit" 'BEGIN{print (s>=l)}')" = 0 ] || break
    sleep 0.2
  done
  result FAIL "$what" "$(after "$t")" "$(tail -n 3 <<< "$out" | tr '\n' ' ' | cut -c1-300)"; return 1
}
refuse() {
  local what=$1 t out; shift; t=$(stamp)
  if out=$("$@" 2>&1); then result FAIL "$what" "$(after "$t")" "it succeeded: $(tail -n 1 <<< "$out" | cut -c1-200)"; return 1
  else result ok "$what" "$(after "$t")" "$(tail -n 1 <<< "$out" | cut -c1-90)"; fi
}
same() { if [ "$2" = "$3" ]; then result ok "$1" 0.0 "$(tr '\n' ' ' <<< "$3" | cut -c1-60)"; else result FAIL "$1" 0.0 "wanted '$2', got '$3'"; fi; }
# The value of a field, once it is there: field home pod/x .status.podIP
field() { local v; v=$("$1" get "${@:4}" "$2" -o "jsonpath={$3}" 2> /dev/null) && [ -n "$v" ] && echo "$v"; }
trap 'exit $((failed > 0))' EXIT

# --- what must be left of a peering: nothing
# Everything that sluice can hold on one side, as lines: objects with its mark, objects of its kinds, pods on virtual nodes, clean-up
# that is owed, and in the host's network its addresses, routes and rules (without counters).
holdings() {
  local n=$1 each='{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}' real
  real=$(lab kubectl "$n" get nodes -l '!liqo.io/type' -o 'jsonpath={.items[*].metadata.name}')
  {
    lab kubectl "$n" get nodes,namespaces,leases.coordination.k8s.io,rolebindings,serviceaccounts,services,configmaps,secrets,endpointslices -A -l sluice.internal/managed -o "jsonpath=$each"
    lab kubectl "$n" get namespaces,nodes -l liqo.io/remote-cluster-id -o "jsonpath=$each"
    lab kubectl "$n" get namespaces -l liqo.io/scheduling-enabled -o "jsonpath=$each"
    lab kubectl "$n" get rolebindings,serviceaccounts -A -o "jsonpath=$each" | grep -E '/sluice-(home|twin|tenant|tenant-twin|tenant-admin|peer)$'
    lab kubectl "$n" get namespacemaps,shadowpods,shadowendpointslices,virtualnodes,quotas.offloading.liqo.io,resourceslices.authentication.liqo.io,tenants,foreignclusters -A -o "jsonpath=$each"
    lab kubectl "$n" get pods -A -o 'jsonpath={range .items[*]}{.spec.nodeName} Pod {.metadata.namespace}/{.metadata.name}{"\n"}{end}' | grep -v "^\(${real// /\\|}\)\? Pod"
    lab sluice "$n" status -o json | grep -oE '[0-9]+ pieces of clean-up are owed'
    lab exec "$n" ip -o -4 addr show dev sluice0 | awk '{print $3,$4}'
    lab exec "$n" ip route show dev sluice0
    lab exec "$n" nft -t list table ip sluice | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
  } 2>&1 | sort
}
declare -A held
# hold: keeps what both sides hold now, before they have a peer, for nothing_left
hold() { local n; for n in home edge; do held[$n]=$(holdings $n); done; }
# nothing_left NAME [SECONDS]: that side holds what it did at `hold`; as far as it differs, the check says in what
nothing_left() {
  local limit=$((SECONDS + ${2:-40})) now t; t=$(stamp)
  while :; do
    now=$(holdings "$1")
    [ "$now" != "${held[$1]}" ] || { result ok "nothing is left at $1" "$(after "$t")" "$(wc -l <<< "$now") lines as before"; return 0; }
    [ $SECONDS -lt $limit ] || break
    sleep 0.5
  done
  result FAIL "nothing is left at $1" "$(after "$t")" "$(diff <(echo "${held[$1]}") <(echo "$now") | grep '^[<>]' | tr '\n' ' ' | cut -c1-300)"; return 1
}

# --- two clusters peered: steps that many stories begin and end with -------------------------------------
#   daemons_up; peer CONSUMER [grant]; offloaded CONSUMER NAMESPACE [ARGS...]; apart NAMESPACE...
# CONSUMER is edge (home invites and lends) or home (home invites and asks, edge lends), or both. They set
# consumer, provider, id_home, id_edge, node (the virtual node at the consumer).
other() { [ "$1" = home ] && echo edge || echo home; }
kube() { lab kubectl "$@"; }
id_of() { lab sluice "$1" status -o json | jq -r .id; }
daemons_up() { local n; for n in home edge; do lab daemon pid "$n" > /dev/null 2>&1 || lab daemon start "$n"; check "$n: the daemon runs" within 60 lab sluice "$n" status; done; }
node_ready() { kube "$1" get node "$2" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
peer() { # edge|home|both [GRANT [ARGS of sluice invite]]: a ticket at home, one line at edge
  local way=$1 grant=${2:-cpu=4,memory=8Gi,pods=110} ask=() join=() ticket t
  case $way in
    edge) ask=(--provide "$grant"); consumer=edge;;
    home) ask=(--consume --provide nothing); join=(--provide "$grant"); consumer=home;;
    both) ask=(--consume --provide "$grant"); join=(--provide "$grant"); consumer=edge;;
  esac
  provider=$(other "$consumer")
  ticket=$(lab sluice home invite "${ask[@]}" "${@:3}" -o json | jq -r .ticket)
  case $ticket in sluice1:*) result ok "home: invite prints a ticket" 0.0 "${#ticket} characters";; *) result FAIL "home: invite prints a ticket" 0.0 "$ticket"; return 1;; esac
  t=$(stamp)
  check "edge: join with that line" within 0 lab sluice edge join "$ticket" "${join[@]}" || return 1
  id_home=$(id_of home) id_edge=$(id_of edge)
  [ "$provider" = home ] && node=$id_home || node=$id_edge
  check "$consumer: the virtual node $node is Ready" within 30 node_ready "$consumer" "$node" || return 1
  took=$(after "$t")
  figure "$consumer consumes: seconds from join to the virtual node Ready" "$took"
}
# The namespace's twin at the provider of CONSUMER
twin_of() { [ "$1" = edge ] && echo "$2-$id_edge" || echo "$2-$id_home"; }
offloaded() { # CONSUMER NAMESPACE [ARGS of sluice offload namespace]
  local who=$1 ns=$2; shift 2
  kube "$who" get namespace "$ns" > /dev/null 2>&1 || kube "$who" create namespace "$ns" > /dev/null
  check "$who: namespace $ns is offloaded $*" within 0 lab sluice "$who" offload namespace "$ns" "$@"
}
gone() { local out; out=$(kube "$@" 2>&1); grep -o NotFound <<< "$out"; }
drop() { # CONSUMER NAMESPACE...: brought home and deleted, twin too
  local who=$1 ns; shift
  for ns; do
    ! kube "$who" -n "$ns" get namespaceoffloading offloading > /dev/null 2>&1 || check "$who: namespace $ns is brought home" within 0 lab sluice "$who" unoffload namespace "$ns"
    kube "$who" delete namespace "$ns" --wait=false > /dev/null 2>&1
    check "its twin is gone" within 60 gone "$(other "$who")" get namespace "$(twin_of "$who" "$ns")"
    check "the namespace $ns is gone" within 60 gone "$who" get namespace "$ns"
  done
}
apart() { # ends the peering; nothing of it is left on either side
  check "edge: unpeer" within 0 lab sluice edge unpeer "$id_home" --yes
  local n; for n in home edge; do
    check "$n: no virtual node is left" within 30 gone_list "$n" node -l liqo.io/type=virtual-node
    check "$n: no tenant namespace is left" within 30 gone_list "$n" namespace -l liqo.io/remote-cluster-id
  done
}
gone_list() { local left; left=$(kube "$1" get "${@:2}" -o name) && [ -z "$left" ]; }
# on CLUSTER NAMESPACE ARGS...: kubectl in a namespace
on() { kube "$1" -n "$2" "${@:3}"; }
phase() { on "$1" "$2" get pod "$3" -o 'jsonpath={.status.phase}'; }
is() { local want=$1; shift; local got; got=$("$@" 2> /dev/null); echo "$got"; [ "$got" = "$want" ]; }
count() { local want=$1; shift; local got; got=$("$@" -o name 2> /dev/null | grep -c .); echo "$got"; [ "$got" = "$want" ]; }
# A pod's manifest on one line of JSON: pod NAME 'JSON merged into spec' ['JSON merged into the container']
pod() {
  jq -nc --arg n "$1" --argjson s "${2:-{\}}" --argjson c "${3:-{\}}" '{apiVersion:"v1",kind:"Pod",metadata:{name:$n,labels:{app:$n}},
    spec:({terminationGracePeriodSeconds:0,containers:[({name:"main",image:"lab.invalid/busybox:1",command:["/app","serve","8080"],resources:{requests:{cpu:"10m",memory:"16Mi"}}} + $c)]} + $s)}'
}
# spec of a pod that only fits the virtual node: on_node NODE ['JSON merged in']
on_node() { jq -nc --arg n "$1" --argjson s "${2:-{\}}" '{nodeSelector:{"kubernetes.io/hostname":$n}} + $s'; }
# names of the replicas that answer: hears WANT SECONDS COMMAND that makes one call...
# calls URL GETTER...: a shell's loop of 24 calls, for one exec instead of 24
calls() { echo "i=0; while [ \$i -lt 24 ]; do ${*:2} '$1'; i=\$((i+1)); done; true"; }
hears() {
  local want=$1 limit=$((SECONDS + $2)) out; shift 2
  declare -A heard=()
  while [ $SECONDS -lt $limit ] && [ ${#heard[@]} -lt "$want" ]; do
    out=$("$@" 2> /dev/null) || continue
    for out in $(awk '/^hello from/{print $3}' <<< "$out"); do heard[$out]=1; done
  done
  echo "${#heard[@]} of $want answered: ${!heard[*]}"; [ ${#heard[@]} = "$want" ]
}
