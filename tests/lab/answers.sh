# answers.sh, sourced by the stories of a Deployment spread over both clusters: spread, places, hear_all and what surrounds them.
# All take the CONSUMER, whose namespace `shop` is offloaded; story.sh's `peer` has set provider, id_home, id_edge and node.

spread() {
  local who=$1 t
  offloaded "$who" shop
  t=$(stamp)
  on "$who" shop apply -f "$lab_dir/manifests/shop.yaml" > /dev/null
  check "$who: a Deployment of 4 is rolled out, its manifest unchanged" within 0 on "$who" shop rollout status deployment/shop --timeout=120s
  figure "$who: seconds from apply to 4 ready pods on two clusters" "$(after "$t")"
}
# sets twin, near and far (one pod of the consumer's, one twin pod), service
places() {
  local who=$1
  twin=$(twin_of "$who" shop)
  check "$who: two of the four are on the virtual node" within 5 count 2 on "$who" shop get pods -l app=shop --field-selector "spec.nodeName=$node"
  check "$provider: the same two run in $twin" within 5 count 2 on "$provider" "$twin" get pods -l app=shop
  near=$(on "$who" shop get pods -l app=shop --field-selector "spec.nodeName=$who" -o 'jsonpath={.items[0].metadata.name}')
  far=$(on "$provider" "$twin" get pods -l app=shop -o 'jsonpath={.items[0].metadata.name}')
  near_ip=$(on "$who" shop get pod "$near" -o 'jsonpath={.status.podIP}')          # as the consumer sees both
  far_ip=$(on "$who" shop get pod "$far" -o 'jsonpath={.status.podIP}')
  service=$(on "$who" shop get service shop -o 'jsonpath={.spec.clusterIP}')
  # what the provider calls the pods of the consumer: the endpoints there that are no pods of its own
  near_there=$(on "$provider" "$twin" get endpointslices -o json | jq -r --arg own "$(on "$provider" "$twin" get pods -o 'jsonpath={.items[*].status.podIP}')" \
    '[.items[].endpoints[]?.addresses[]] | map(select(. as $a | ($own | split(" ") | index($a)) | not)) | unique[]' | sort)
}
hear_all() {
  local who=$1
  check "from a pod of $who the Service's name answers from all 4" within 30 hears 4 20 on "$who" shop exec "$near" -- sh -c "$(calls http://shop/ /app get)"
  check "from its pod at $provider too" within 30 hears 4 20 on "$provider" "$twin" exec "$far" -- sh -c "$(calls http://shop/ /app get)"
}
node_ip() { [ "$1" = home ] && echo 203.0.113.10 || echo 192.168.1.10; }
answering() {
  local who=$1 outside n
  spread "$who"; places "$who"; hear_all "$who"
  check "by the long name, from $provider" on "$provider" "$twin" exec "$far" -- /app get "http://shop.$twin.svc.cluster.local/"
  check "from the node of $who by the Service's address, all 4" within 30 hears 4 20 lab exec "$who" sh -c "$(calls "http://$service/" curl -sf -m3)"
  on "$who" shop patch service shop --type=merge -p '{"spec":{"type":"NodePort","ports":[{"port":80,"targetPort":"http","nodePort":30081}]}}' > /dev/null
  check "through a NodePort on the node of $who, all 4" within 30 hears 4 20 lab exec "$who" sh -c "$(calls "http://$(node_ip "$who"):30081/" curl -sf -m3)"
  # from outside the node: edge's router, or the gateway that home hangs on
  if [ "$who" = edge ]; then check "and from the LAN of edge, all 4" within 30 hears 4 20 lab router natr sh -c "$(calls http://192.168.1.10:30081/ curl -sf -m3)"
  else check "and from home's gateway, all 4" within 30 hears 4 20 lab router inet sh -c "$(calls http://203.0.113.10:30081/ curl -sf -m3)"; fi
  check "$provider opens no NodePort for it" is ClusterIP on "$provider" "$twin" get service shop -o 'jsonpath={.spec.type}'

  tell "pod to pod"
  check "$who to $provider, by the address in the pod's status" on "$who" shop exec "$near" -- /app get "http://$far_ip:8080/"
  for n in $near_there; do check "$provider to $who, by $n" on "$provider" "$twin" exec "$far" -- /app get "http://$n:8080/"; done
  same "$provider sees 2 pods of $who" 2 "$(wc -w <<< "$near_there")"
  n=$(head -1 <<< "$near_there")
  check "10 MB from $provider to $who arrive intact" within 60 on "$who" shop exec "$near" -- /app blob "http://$far_ip:8080/blob?n=10000000"
  check "10 MB from $who to $provider arrive intact" within 60 on "$provider" "$twin" exec "$far" -- /app blob "http://$n:8080/blob?n=10000000"
  known=$(on "$who" shop exec "$near" -- sh -c 'wget -qO- "http://127.0.0.1:8080/blob?n=10000000" | sha256sum')
  same "the same by SHA-256, $provider to $who" "$known" "$(on "$who" shop exec "$near" -- sh -c "wget -qO- 'http://$far_ip:8080/blob?n=10000000' | sha256sum")"
  same "the same by SHA-256, $who to $provider" "$known" "$(on "$provider" "$twin" exec "$far" -- sh -c "wget -qO- 'http://$n:8080/blob?n=10000000' | sha256sum")"

  tell "what pods use"
  on "$who" shop create configmap used --from-literal=greeting=hello > /dev/null
  on "$who" shop create configmap unused --from-literal=greeting=nobody > /dev/null
  on "$who" shop create secret generic used --from-literal=word=sesame > /dev/null
  on "$who" shop create secret generic unused --from-literal=word=nobody > /dev/null
  pod reader "$(on_node "$node" '{"volumes":[{"name":"c","configMap":{"name":"used"}},{"name":"s","secret":{"secretName":"used"}}]}')" \
    '{"env":[{"name":"ONE","valueFrom":{"configMapKeyRef":{"name":"used","key":"greeting"}}},{"name":"TWO","valueFrom":{"secretKeyRef":{"name":"used","key":"word"}}}],
      "envFrom":[{"configMapRef":{"name":"used"}},{"secretRef":{"name":"used"}}],"volumeMounts":[{"name":"c","mountPath":"/c"},{"name":"s","mountPath":"/s"}]}' | on "$who" shop apply -f - > /dev/null
  check "a pod that uses a ConfigMap and a Secret five ways runs at $provider" within 60 is Running phase "$who" shop reader
  check "env, envFrom and files are right" within 10 is "hello sesame hello sesame hello sesame" on "$provider" "$twin" exec reader -- sh -c 'echo $ONE $TWO $greeting $word $(cat /c/greeting) $(cat /s/word)'
  same "unused ones stay at $who" "used used" "$(echo $(on "$provider" "$twin" get configmaps,secrets -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}' | grep used))"
  on "$who" shop patch configmap used --type=merge -p '{"data":{"greeting":"good evening"}}' > /dev/null
  check "a change of the ConfigMap follows" within 10 is "good evening" on "$provider" "$twin" get configmap used -o 'jsonpath={.data.greeting}'
  on "$who" shop delete pod reader --wait=false > /dev/null
  check "with the last pod that uses them they leave $provider" within 90 gone "$provider" -n "$twin" get configmap used

  tell "headless, and host network"
  on "$who" shop apply -f - > /dev/null <<< '{"apiVersion":"v1","kind":"Service","metadata":{"name":"all"},"spec":{"clusterIP":"None","selector":{"app":"shop"},"ports":[{"port":8080}]}}'
  addresses() { on "$1" "$2" exec "$3" -- /app lookup all | tr -d '[]' | wc -w; }
  check "a headless Service names 4 addresses at $who" within 20 is 4 addresses "$who" shop "$near"
  check "and 4 at $provider" within 20 is 4 addresses "$provider" "$twin" "$far"
  pod onhost "{\"hostNetwork\":true,\"nodeName\":\"$who\"}" '{"command":["/app","serve","8099"]}' | on "$who" shop apply -f - > /dev/null
  on "$who" shop label pod onhost app=shop --overwrite > /dev/null
  check "a host-network pod of $who is an endpoint there" within 40 is 5 addresses "$who" shop "$near"
  check "and left out at $provider" within 5 is 4 addresses "$provider" "$twin" "$far"
  on "$who" shop delete pod onhost --wait=false > /dev/null
}
