# leaving.sh, sourced after story.sh by the stories of how it ends: edge's namespace shop, offloaded to home, and a Deployment of 4 on both.
. "$lab_dir/peering.sh"
begun() { daemons; apart; hold; home_id=$(said home .id) edge_id=$(said edge .id); }
# busy: shop is offloaded and its four replicas are spread over both clusters
busy() {
  edge create namespace shop > /dev/null 2>&1
  sluice edge offload namespace shop > /dev/null
  edge -n shop apply -f "$lab_dir/manifests/shop.yaml" > /dev/null
  # with no time to end, a pod on a node that is away would simply be gone from the API
  edge -n shop patch deployment shop -p '{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":2}}}}' > /dev/null
  edge -n shop rollout restart deployment/shop > /dev/null
  edge -n shop delete pods -l app=shop --field-selector status.phase=Failed > /dev/null
  check "a Deployment of 4 is spread over both" within 120 spread
}
spread() { [ "$(running there)" -ge 1 ] && [ "$(running)" = 4 ] && edge -n shop rollout status deployment/shop --timeout=1s; }
# running [there|here]: how many of its pods are Ready and not being deleted
running() {
  edge -n shop get pods -l app=shop -o json | jq --arg w "${1:-}" '[.items[] | select(.metadata.deletionTimestamp == null)
    | select(any(.status.conditions[]?; .type == "Ready" and .status == "True")) | select($w == "" or (($w == "here") == (.spec.nodeName == "edge")))] | length'
}
at_home() { [ "$(running here)" = 4 ]; }
twins() { home get namespaces -o name | grep /shop-; }
no_twin() { [ -z "$(twins)" ]; }
nobody() { [ "$(said "$1" '.peers | length')" = 0 ]; }
# put_back of peering.sh calls it, after a failure too
ending() {
  local n
  lab link restore edge natr
  for n in home edge; do lab daemon pid $n || lab daemon start $n; done > /dev/null 2>&1
  apart
  edge delete namespace shop --ignore-not-found --timeout=60s > /dev/null 2>&1
}
