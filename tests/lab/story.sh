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
same() { if [ "$2" = "$3" ]; then result ok "$1" 0.0 "$(cut -c1-60 <<< "$3")"; else result FAIL "$1" 0.0 "wanted '$2', got '$3'"; fi; }
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
    lab exec "$n" nft list table ip sluice | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
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
