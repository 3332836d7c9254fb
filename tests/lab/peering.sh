# peering.sh, sourced after story.sh by stories that need daemons and a peering. What it started, it ends with the story.
#
#   daemons                         both daemons run and have reached their API servers
#   said NAME FILTER                a field of `sluice status`, by jq
#   ticket NAME ARGS...             a new ticket's line
#   peer [INVITE ARGS] [-- JOIN ARGS]   edge joins home
#   apart                           no peering is left on either side
sluice() { lab sluice "$@"; }
answers() { sluice "$1" status -o json 2> /dev/null | jq -e '.kubernetes != null' > /dev/null; }
said() { sluice "$1" status -o json | jq -r "$2"; }
ticket() { sluice "$1" invite -o json "${@:2}" | jq -re .ticket; }
started=()
daemons() {
  local n
  for n in home edge; do
    lab daemon pid $n > /dev/null 2>&1 || { lab daemon start $n && started+=($n); }
    check "$n: the daemon runs and has reached its API server" within 30 answers $n
  done
}
peer() {
  local line invite=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do invite+=("$1"); shift; done; [ $# = 0 ] || shift
  line=$(ticket home "${invite[@]}") && sluice edge join "$line" "$@"
}
alone() { [ "$(said "$1" '.peers | length')" = 0 ]; }
apart() {
  local n id
  for n in edge home; do
    lab daemon pid $n > /dev/null 2>&1 || continue
    for id in $(said $n '.peers[].id' 2> /dev/null); do sluice $n unpeer "$id" --yes > /dev/null 2>&1; done
  done
  check "edge has no peer left" within 30 alone edge; check "home has no peer left" within 30 alone home
}
# Runs at the end of every story that sources this: `ending` is the story's own part
settled() { ! said "$1" '.warnings[].reason' 2> /dev/null | grep -q cleanup_owed; }
put_back() {
  trap - EXIT; ! declare -F ending > /dev/null || ending
  local n
  # what a leave owes is paid before the daemon goes: the next story would find it
  for n in "${started[@]}"; do for _ in $(seq 60); do settled "$n" && break; sleep 0.25; done; lab daemon stop "$n" > /dev/null 2>&1; done
  rm -rf "$dir"; exit $((failed > 0))
}
trap put_back EXIT; trap 'exit 130' INT TERM
# exits CODE COMMAND...: it ends with this exit code; says CODE TEXT COMMAND...: and prints TEXT (a regular expression). Its output is in $dir
dir=$(mktemp -d)
exits() { local want=$1 got=0; shift; "$@" > "$dir/out" 2> "$dir/err" || got=$?; cat "$dir/out" "$dir/err"; [ $got = "$want" ] || { echo "exit code $got"; return 1; }; ! grep -q panicked "$dir/err"; }
says() { local code=$1 text=$2; shift 2; exits "$code" "$@" && grep -hE -- "$text" "$dir/out" "$dir/err"; }
