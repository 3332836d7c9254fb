# faults.sh, sourced after story.sh by the stories of things that break: what must not change meanwhile, and how soon it flows again.
#
#   standing [INVITE ARGS]   both daemons, each in a box of 16 MiB, edge consumes from home, its namespace `shop` is spread over both; lives are kept
#   untouched WHAT           no pod has ended, restarted or been replaced on either side since then
#   flows N WHAT             within N seconds pods of each side have reached one of the other's
#   beat SECONDS             traffic in the background, both ways; beaten WHAT N waits for it: no pause was longer than N seconds
#   in_step N WHAT           within N seconds a pod added at edge runs at home and says so at edge, and one taken away is gone at home
#   resumed NAME SINCE WHAT  what was asked of that API server since, and that no watch was listed anew
#   fallen                   ends it all; nothing is left on either side, and no daemon was short of memory
. "$lab_dir/answers.sh"
dir=$(mktemp -d)
standing() {
  local n
  for n in home edge; do ! lab daemon pid $n > /dev/null 2>&1 || lab daemon stop $n; done
  export SLUICE_MEMORY=16M
  daemons_up
  [ -n "${held[home]:-}" ] || hold
  peer edge cpu=4,memory=8Gi,pods=110 "$@" || exit 1
  spread edge; places edge
  in_place="$near $near_ip $far $far_ip $near_there"
  flows 30 "traffic flows both ways"
  lives > "$dir/lives"
}
# Every pod on both sides: who it is, how often it began, under which container
lives() {
  local n
  for n in "edge shop" "home $twin"; do
    on $n get pods -o json | jq -r --arg n "$n" '.items[]|[$n,.metadata.name,.metadata.uid,.status.startTime,(.status.containerStatuses[]?|.restartCount,.containerID),(.metadata.deletionTimestamp//"stays")]|@tsv'
  done | sort
}
untouched() {
  local now; now=$(lives)
  if [ "$now" = "$(cat "$dir/lives")" ]; then result ok "$1" 0.0 "$(wc -l <<< "$now") pods, each the same with its container"
  else result FAIL "$1" 0.0 "$(diff "$dir/lives" <(echo "$now") | grep '^[<>]' | cut -c1-200 | head -4 | tr '\n' ' ')"; fi
}
there_and_back() { on edge shop exec "$near" -- /app get "http://$far_ip:8080/" > /dev/null && on home "$twin" exec "$far" -- /app get "http://$(head -1 <<< "$near_there"):8080/"; }
flows() {
  local t; t=$(stamp)
  check "$2" within "$1" there_and_back || return 1
  awk -v s="$(after "$t")" -v l="$1" 'BEGIN{exit !(s <= l)}' || result FAIL "$2: in $1 s" "$(after "$t")" "the try that succeeded began in time and ended late"
}
beats=()
beat() {
  on edge shop exec "$near" -- /app beat "http://$far_ip:8080/" "$1" > "$dir/beat.edge" 2>&1 & beats=($!)
  on home "$twin" exec "$far" -- /app beat "http://$(head -1 <<< "$near_there"):8080/" "$1" > "$dir/beat.home" 2>&1 & beats+=($!)
}
beaten() { # WHAT SECONDS
  local n p; wait "${beats[@]}"
  for n in edge home; do
    p=$(sed -n 's/.*longest pause \([0-9.]*\) s.*/\1/p' "$dir/beat.$n")
    if [ -n "$p" ] && awk -v p="$p" -v l="$2" 'BEGIN{exit !(p<=l)}'; then result ok "$1, from $n (limit $2 s)" "$p" "$(cat "$dir/beat.$n")"
    else result FAIL "$1, from $n (limit $2 s)" "${p:-0}" "$(tail -n 1 "$dir/beat.$n")"; fi
  done
}
probes=0
runs_there() { [ "$(phase edge shop "$1")" = Running ] && [ "$(phase home "$twin" "$1")" = Running ]; }
in_step() { # SECONDS WHAT
  local p=probe-$((++probes)) t; t=$(stamp)
  taken() { pod $p "$(on_node "$node")" | on edge shop apply -f -; }
  # an API server that has just begun does not know its policies' kinds for some seconds
  taken > /dev/null 2>&1 || check "$2: edge takes pods again" within 60 taken
  check "$2: a pod made at edge runs at home, and edge says so" within "$1" runs_there $p
  on edge shop delete pod $p --wait=false > /dev/null
  check "$2: deleted at edge, it is gone at home" within "$1" gone home -n "$twin" get pod $p
  check "and at edge" within 15 gone edge -n shop get pod $p
}
# resumed NAME SINCE WHAT: nothing was listed, every watch went on where it had been; edge's at home's API server were cut
resumed() {
  local all; all=$(lab begun "$1" "$2")
  figure "$3: requests to its API server since the cut" "$(lab requests "$1" ':sluice(-peer)?$' "$2" | awk '$2 == "in" {print $1}')"
  if [ "$1" = home ] && [ -z "$all" ]; then result FAIL "$3" 0.0 "no watch of edge's began anew at home, although all were cut"
  elif grep -qE ' (list|anew)\b' <<< "$all"; then result FAIL "$3" 0.0 "$(grep -E ' (list|anew)\b' <<< "$all" | tr -s ' \t\n' ' ')"
  else result ok "$3" 0.0 "$(awk '{n+=$1} END{print n+0}' <<< "$all") watches resumed, nothing listed"; fi
}
fallen() {
  local n box
  drop edge shop; apart
  nothing_left edge; nothing_left home
  for n in home edge; do
    box=$(lab rss $n)
    figure "$n: most memory of the daemon's cgroup of 16 MiB, page cache included" "$(sed -n 's/^BoxPeak *//p' <<< "$box")"
    figure "$n: most resident memory of the daemon" "$(sed -n 's/^VmHWM: *//p' <<< "$box")"
    same "$n: nothing was killed for want of memory" 0 "$(sed -n 's/^BoxKilled *//p' <<< "$box")"
    lab daemon stop $n
  done
  unset SLUICE_MEMORY
}
# what a story of faults ends with, however it ends: the levers back where they were
levers_back() {
  local l n
  for l in "edge natr" "natr inet" "home inet"; do lab link restore $l; done
  for n in home edge; do lab clock $n 0; lab exec $n true 2> /dev/null || lab start $n; done
}
put_right() { trap - EXIT; kill "${beats[@]}" 2> /dev/null; ! declare -F ending > /dev/null || ending; levers_back > /dev/null 2>&1; rm -rf "$dir"; exit $((failed > 0)); }
trap put_right EXIT; trap 'exit 130' INT TERM
