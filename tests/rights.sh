#!/bin/bash
# rights.sh KUBECTL...: tries, on a real API server that runs under RBAC, what the daemon and a consumer may and may not do. Applies k3s-manifests/ first;
# KUBECTL is the administrator's kubectl with its arguments. Leaves the manifests, removes all else. Ends with a line `N passed, N failed`.
set -uo pipefail
shopt -s lastpipe   # so that what is counted behind a pipe counts
cd "$(dirname "$0")/../k3s-manifests"
k() { timeout 90 "${K[@]}" "$@"; }
K=("$@"); passed=0 failed=0
account() { echo "--as=system:serviceaccount:$1:$2 --as-group=system:serviceaccounts --as-group=system:serviceaccounts:$1 --as-group=system:authenticated"; }
daemon=$(account sluice sluice) peer=$(account liqo-tenant-edge-1 sluice-peer)
try() { # yes|no|no:WORDS WHAT COMMAND... (stdin is passed on)
  local want=$1 what=$2 out got=yes tries=0; shift 2; local input; input=$(cat)
  while :; do
    got=yes; out=$(timeout 30 "${K[@]}" "$@" <<<"$input" 2>&1) || got=no
    # what was just granted or made reaches the API server's caches a moment later
    { [ "$want" = yes ] && [ $got = no ] && [ $((tries++)) -lt 10 ]; } || break
    sleep 0.3
  done
  if [ "$got" = "${want%%:*}" ] && { [ "$want" = "${want#no:}" ] || grep -qF -- "${want#no:}" <<<"$out"; }; then passed=$((passed+1)); echo "  ok    $want: $what"
  else failed=$((failed+1)); echo "  FAIL  $want expected: $what"; sed 's/^/          /' <<<"$out"; fi
}
can() { try "$1" "$2" auth can-i ${*:3} </dev/null; }
cat_ns() { echo "{apiVersion: v1, kind: Namespace, metadata: {name: $1, labels: {$2}, annotations: {${3:-}}}}"; }
binding() { echo "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: $2, namespace: $1, labels: {${5-sluice.internal/managed: \"true\"}}},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $2}, subjects: [{kind: ServiceAccount, namespace: $3, name: $4}]}"; }
mark='sluice.internal/managed: "true"'
scrub() { # what this script makes, and nothing else; the pods first, as no kubelet ends them
  k delete pods --all --force --grace-period=0 -n rights-shop; k delete pods --all --force --grace-period=0 -n rights-plain
  k delete namespace rights-shop rights-plain liqo-tenant-edge-1 rights-shop-edge-1 --ignore-not-found --wait=false; k delete node edge-1 rights-real --ignore-not-found
  k delete lease -n kube-node-lease edge-1 rights-real --ignore-not-found
} >/dev/null 2>&1
trap scrub EXIT

for f in namespace crds-core crds-authentication crds-offloading roles policy-daemon policy-tenants policy-offloadable policy-offload; do k apply --server-side --force-conflicts --field-manager=sluice -f $f.yaml >/dev/null || exit 1; done
k wait --for=condition=Established --timeout=30s crd -l sluice.internal/managed=true >/dev/null || exit 1
scrub; k wait --for=delete --timeout=60s ns/rights-shop ns/rights-plain ns/liqo-tenant-edge-1 ns/rights-shop-edge-1 >/dev/null 2>&1
k create namespace rights-shop >/dev/null; k create namespace rights-plain >/dev/null
k create -f - >/dev/null <<<"{apiVersion: v1, kind: Node, metadata: {name: rights-real}}"
sleep 2
echo "the daemon, by its roles"
for what in "get secrets" "list secrets -n rights-shop" "create serviceaccounts --subresource=token" "create serviceaccounts -n rights-shop" "create pods -n rights-shop" "create namespaceoffloadings.offloading.liqo.io -n rights-shop" \
  "patch namespaceoffloadings.offloading.liqo.io -n rights-shop" "create clusterrolebindings.rbac.authorization.k8s.io" "escalate clusterroles.rbac.authorization.k8s.io" "bind clusterroles.rbac.authorization.k8s.io/cluster-admin" \
  "patch customresourcedefinitions.apiextensions.k8s.io" "create mutatingadmissionpolicies.admissionregistration.k8s.io" "impersonate users" "get nodes --subresource=proxy" "create pods --subresource=exec" "get configmaps -n kube-system" "update leases.coordination.k8s.io -n default"; do
  can no "$what" $what $daemon; done
for what in "list nodes" "patch nodes --subresource=status" "watch pods" "patch pods --subresource=status" "create events" "patch namespaces" "patch namespaceoffloadings.offloading.liqo.io --subresource=status" "bind clusterroles.rbac.authorization.k8s.io/sluice-home" "create serviceaccounts/sluice --subresource=token -n sluice" \
  "create leases.coordination.k8s.io -n kube-node-lease"; do can yes "$what" $what $daemon; done
can no "a token of another account of its namespace" create serviceaccounts/default --subresource=token -n sluice $daemon

echo "the daemon, by the policies: consent"
binding rights-shop sluice-home sluice sluice | try no:"no params found" "binds itself where nothing is offloaded" create -f - $daemon
binding rights-shop sluice-home sluice sluice '' | try no:"carries its mark" "binds itself without its mark" create -f - $daemon
try no:"only after sluice was bound" "labels a namespace that is not offloaded" label ns rights-shop liqo.io/scheduling-enabled=true $daemon </dev/null
try no:"must be named 'offloading'" "a NamespaceOffloading of another name" create -n rights-shop -f - <<<"{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceOffloading, metadata: {name: other}}"
try no:"never offloaded" "a NamespaceOffloading in default" create -n default -f - <<<"{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceOffloading, metadata: {name: offloading}}"
try no:"goes with" "remoteNamespaceName without SelectedName" create -n rights-shop -f - <<<"{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceOffloading, metadata: {name: offloading}, spec: {remoteNamespaceName: x}}"
try yes "the administrator offloads a namespace" create -n rights-shop -f - <<<"{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceOffloading, metadata: {name: offloading}}"
try no:"cannot be changed" "the mapping strategy is changed" patch nsoff offloading -n rights-shop --type=merge -p '{"spec":{"namespaceMappingStrategy":"EnforceSameName"}}' </dev/null
binding rights-shop sluice-home sluice sluice | try yes "binds itself where a NamespaceOffloading stands" create -f - $daemon
binding rights-shop sluice-twin sluice sluice | try no:"meant for that kind" "binds itself to the twin role at home" create -f - $daemon
binding rights-shop sluice-tenant-twin liqo-tenant-edge-1 sluice-peer | try no:"meant for that kind" "binds a peer in a home namespace" create -f - $daemon
binding rights-shop cluster-admin sluice sluice | try no "binds itself to cluster-admin" create -f - $daemon
try yes "labels the namespace" label ns rights-shop liqo.io/scheduling-enabled=true $daemon </dev/null
try no:"only its own labels" "sets another label on it" label ns rights-shop pod-security.kubernetes.io/enforce=privileged $daemon </dev/null
try yes "marks the namespace as offloaded" label ns rights-shop sluice.internal/managed=true $daemon </dev/null
try no:"does not become" "takes the offloaded namespace over" label ns rights-shop liqo.io/remote-cluster-id=edge-1 $daemon </dev/null
try no:"only namespaces it made" "deletes the offloaded namespace" delete ns rights-shop --wait=false $daemon </dev/null
try no:"only after sluice was bound" "marks a namespace that is not offloaded" label ns rights-plain sluice.internal/managed=true $daemon </dev/null
try no:"never made, labelled or deleted" "labels kube-system" label ns kube-system liqo.io/scheduling-enabled=true $daemon </dev/null
try no:"only namespaces it made" "deletes a namespace it did not make" delete ns rights-plain --wait=false $daemon </dev/null
can yes "reads Secrets in the offloaded namespace" get secrets -n rights-shop $daemon

echo "the daemon, by the policies: nodes, leases, pods"
node='{apiVersion: v1, kind: Node, metadata: {name: edge-1, labels: {LABELS}}, spec: {taints: [{key: TAINT, value: "true", effect: NoExecute}]}}'
mk() { sed "s|LABELS|$1|; s|TAINT|$2|" <<<"$node"; }
mk 'liqo.io/type: virtual-node' virtual-node.liqo.io/not-allowed | try no:"carry its mark" "a node without its mark" create -f - $daemon
mk "$mark, liqo.io/type: virtual-node" other | try no:"is tainted" "a virtual node without the taint" create -f - $daemon
mk "$mark, liqo.io/type: virtual-node, node-role.kubernetes.io/master: x" virtual-node.liqo.io/not-allowed | try no:"has no role" "a virtual node with a role" create -f - $daemon
mk "$mark, liqo.io/type: virtual-node" virtual-node.liqo.io/not-allowed | try yes "a virtual node" create -f - $daemon
try yes "its status" patch node edge-1 --subresource=status --type=merge -p '{"status":{"phase":"Running"}}' $daemon </dev/null
try no:"carry its mark" "cordons a real node" patch node rights-real --type=merge -p '{"spec":{"unschedulable":true}}' $daemon </dev/null
try no:"carry its mark" "takes a real node over" patch node rights-real --type=merge -p '{"metadata":{"labels":{"sluice.internal/managed":"true","liqo.io/type":"virtual-node"}}}' $daemon </dev/null
try no:"carry its mark" "deletes a real node" delete node rights-real --wait=false $daemon </dev/null
lease='{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: NAME, namespace: kube-node-lease, labels: {LABELS}}, spec: {holderIdentity: x}}'
sed "s/NAME/rights-real/; s|LABELS||" <<<"$lease" | try no:"carry its mark" "a lease without its mark" create -f - $daemon
sed "s/NAME/edge-1/; s|LABELS|$mark|" <<<"$lease" | try yes "the lease of a virtual node" create -f - $daemon
pod() { echo "{apiVersion: v1, kind: Pod, metadata: {name: $2, namespace: $1}, spec: {nodeName: $3, tolerations: [$4], containers: [{name: c, image: x}], ${5:-}}}"; }
k create sa default -n rights-plain >/dev/null 2>&1; k create sa default -n rights-shop >/dev/null 2>&1
pod rights-plain tolerant edge-1 '{operator: Exists}' | k create -f - >/dev/null; pod rights-plain plain rights-real '' | k create -f - >/dev/null; pod rights-shop web edge-1 '{key: virtual-node.liqo.io/not-allowed, operator: Exists}' | k create -f - >/dev/null
pending='{"status":{"reason":"NotOffloaded"}}'
try yes "says why a tolerant pod stays Pending" patch pod tolerant -n rights-plain --subresource=status --type=merge -p "$pending" $daemon </dev/null
try no:"can be on a virtual node" "writes the status of another node's pod" patch pod plain -n rights-plain --subresource=status --type=merge -p "$pending" $daemon </dev/null
try no:"only after somebody else" "deletes a pod of a namespace that is not offloaded" delete pod tolerant -n rights-plain --wait=false $daemon </dev/null
k delete pod tolerant -n rights-plain --wait=false >/dev/null
try yes "ends it once it is deleted" delete pod tolerant -n rights-plain --force --grace-period=0 --wait=false $daemon </dev/null
try no "changes the image of a home pod" patch pod web -n rights-shop --type=merge -p '{"spec":{"containers":[{"name":"c","image":"evil"}]}}' $daemon </dev/null
try yes "labels a home pod" label pod web -n rights-shop liqo.io/shadowPod=true $daemon </dev/null
try yes "deletes a home pod" delete pod web -n rights-shop --force --grace-period=0 --wait=false $daemon </dev/null

echo "the daemon as a provider"
cat_ns liqo-tenant-edge-1 "$mark, liqo.io/remote-cluster-id: other, pod-security.kubernetes.io/enforce: restricted" | try no:"named after" "a tenant namespace of another name" create -f - $daemon
cat_ns rights-shop-edge-1 "$mark, liqo.io/remote-cluster-id: edge-1, pod-security.kubernetes.io/enforce: privileged" | try no:"baseline or restricted" "a twin without Pod Security" create -f - $daemon
cat_ns sluice-evil "$mark, liqo.io/remote-cluster-id: edge-1, pod-security.kubernetes.io/enforce: baseline" | try no:"never made" "a namespace with one of our names" create -f - $daemon
cat_ns liqo-tenant-edge-1 "$mark, liqo.io/remote-cluster-id: edge-1, liqo.io/tenant-namespace: 'true', pod-security.kubernetes.io/enforce: restricted" | try yes "a tenant namespace" create -f - $daemon
cat_ns rights-shop-edge-1 "$mark, liqo.io/remote-cluster-id: edge-1, pod-security.kubernetes.io/enforce: baseline" 'sluice.internal/ingress-hosts: "a.example.org"' | try yes "a twin namespace" create -f - $daemon
binding liqo-tenant-edge-1 sluice-tenant-admin sluice sluice | try yes "binds itself in the tenant namespace" create -f - $daemon
try yes "makes the peer's account" create sa sluice-peer -n liqo-tenant-edge-1 $daemon </dev/null
try no "makes another account" create sa other -n liqo-tenant-edge-1 $daemon </dev/null
try yes "mints the peer's token" create token sluice-peer -n liqo-tenant-edge-1 $daemon </dev/null
k create sa default -n liqo-tenant-edge-1 >/dev/null 2>&1; k create sa default -n rights-shop-edge-1 >/dev/null 2>&1
try no "mints another account's token" create token default -n liqo-tenant-edge-1 $daemon </dev/null
binding liqo-tenant-edge-1 sluice-tenant liqo-tenant-edge-1 sluice-peer | try yes "binds the peer in its tenant namespace" create -f - $daemon
binding rights-shop-edge-1 sluice-tenant-twin liqo-tenant-other sluice-peer | try no:"meant for that kind" "binds another peer in the twin" create -f - $daemon
binding rights-shop-edge-1 sluice-home sluice sluice | try no:"meant for that kind" "binds the home role in a twin" create -f - $daemon
binding rights-shop-edge-1 sluice-tenant-twin liqo-tenant-edge-1 sluice-peer | try yes "binds the peer in its twin" create -f - $daemon
binding rights-shop-edge-1 sluice-twin sluice sluice | try yes "binds itself in the twin" create -f - $daemon
try no:"keeps its peer" "weakens the twin's Pod Security" label ns rights-shop-edge-1 pod-security.kubernetes.io/enforce=privileged --overwrite $daemon </dev/null
echo "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: rights-shop-edge-1}, spec: {automountServiceAccountToken: false, containers: [{name: c, image: x}]}}" | try yes "a pod in the twin" create -f - $daemon
echo "{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: rights-shop-edge-1}, spec: {containers: [{name: c, image: x}]}}" | try no:"mounts no token" "a pod with a token" create -f - $daemon
echo "{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: rights-shop-edge-1}, spec: {hostNetwork: true, automountServiceAccountToken: false, containers: [{name: c, image: x}]}}" | try no:"PodSecurity" "a pod on the host's network" create -f - $daemon
try yes "deletes a pod in the twin" delete pod a -n rights-shop-edge-1 --force --grace-period=0 --wait=false $daemon </dev/null
try no:"not offloaded again" "a twin is offloaded" create -n rights-shop-edge-1 -f - <<<"{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceOffloading, metadata: {name: offloading}}"

echo "a consumer"
in_meta() { local head="{metadata: {name: $1, namespace: ${3:-rights-shop-edge-1}${2:+, $2}}, " rest; read -r rest; echo "$head${rest#?}"; }
can no "patch namespacemaps/status" patch namespacemaps.offloading.liqo.io --subresource=status -n liqo-tenant-edge-1 $peer
can no "patch shadowpods/status" patch shadowpods.offloading.liqo.io --subresource=status -n rights-shop-edge-1 $peer
can no "create pods" create pods -n rights-shop-edge-1 $peer
can no "list nodes" list nodes $peer
can no "list pods elsewhere" list pods -n rights-shop $peer
can no "delete its own account" delete serviceaccounts -n liqo-tenant-edge-1 $peer
for what in "create shadowpods.offloading.liqo.io" "get pods --subresource=log" "create pods --subresource=exec" "create secrets" "watch events"; do can yes "$what" $what -n rights-shop-edge-1 $peer; done
in_meta edge-1 '' liqo-tenant-edge-1 <<<'{apiVersion: offloading.liqo.io/v1beta1, kind: NamespaceMap, spec: {desiredMapping: {shop: rights-shop-edge-1}}}' | try yes "its NamespaceMap" create -f - $peer
in_meta edge-1 '' liqo-tenant-edge-1 <<<'{apiVersion: authentication.liqo.io/v1beta1, kind: ResourceSlice, spec: {consumerClusterID: edge-1, providerClusterID: hub, resources: {cpu: 2}}}' | try yes "its ResourceSlice" create -f - $peer
in_meta other '' liqo-tenant-edge-1 <<<'{apiVersion: authentication.liqo.io/v1beta1, kind: ResourceSlice, spec: {consumerClusterID: other, providerClusterID: hub}}' | try no:"only for itself" "a ResourceSlice for another" create -f - $peer
in_meta p 'annotations: {prometheus.io/scrape: "true"}' <<<'{apiVersion: offloading.liqo.io/v1beta1, kind: ShadowPod, spec: {pod: {containers: [{name: c, image: x}]}}}' | try yes "a ShadowPod" create -f - $peer
in_meta q 'finalizers: [example.org/stay]' <<<'{apiVersion: offloading.liqo.io/v1beta1, kind: ShadowPod, spec: {pod: {}}}' | try no:"no finalizers" "a ShadowPod with a finalizer" create -f - $peer
in_meta c <<<'{apiVersion: v1, kind: ConfigMap, data: {a: b}}' | try yes "a ConfigMap" create -f - $peer
in_meta d 'annotations: {reflector.v1.k8s.emberstack.com/reflects: kube-system/x}' <<<'{apiVersion: v1, kind: Secret}' | try no:"annotation is not taken" "a Secret that asks a replicator for another" create -f - $peer
in_meta e 'annotations: {kubernetes.io/service-account.name: default}' <<<'{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token}' | try no "a Secret that would be a token" create -f - $peer
in_meta s <<<'{apiVersion: v1, kind: Service, spec: {ports: [{port: 80}], selector: {a: b}}}' | try yes "a Service" create -f - $peer
in_meta t <<<'{apiVersion: v1, kind: Service, spec: {ports: [{port: 80}], externalIPs: [203.0.113.1]}}' | try no:"no externalIPs" "a Service with an external address" create -f - $peer
for type in NodePort LoadBalancer; do in_meta t <<<"{apiVersion: v1, kind: Service, spec: {type: $type, ports: [{port: 80}]}}" | try no:"not granted" "a Service of type $type" create -f - $peer; done
try no:"not granted" "a Service turned into a NodePort" patch svc s -n rights-shop-edge-1 --type=merge -p '{"spec":{"type":"NodePort"}}' $peer </dev/null
in_meta i <<<'{apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {rules: [{host: a.example.org}]}}' | try yes "an Ingress for a granted host" create -f - $peer
in_meta j <<<'{apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {rules: [{host: b.example.org}]}}' | try no:"only hosts" "an Ingress for another host" create -f - $peer
in_meta j <<<'{apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {rules: [{}]}}' | try no:"only hosts" "an Ingress for every host" create -f - $peer
in_meta v <<<'{apiVersion: v1, kind: PersistentVolumeClaim, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeName: others}}' | try no:"choose its volume" "a claim on a certain volume" create -f - $peer
in_meta v <<<'{apiVersion: v1, kind: PersistentVolumeClaim, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}' | try yes "a claim" create -f - $peer

echo "pods of an offloaded namespace"
dry() { k create -n rights-shop --dry-run=server -o jsonpath='{range .spec.tolerations[*]}{.key} {end}' -f - <<<'{apiVersion: v1, kind: Pod, metadata: {name: dry}, spec: {containers: [{name: c, image: x}]}}'; }
expect() { if [ "$2" = "$3" ]; then passed=$((passed+1)); echo "  ok    $1"; else failed=$((failed+1)); echo "  FAIL  $1: $2"; fi; }
expect "a pod gets the toleration" "$(dry)" "node.kubernetes.io/not-ready node.kubernetes.io/unreachable virtual-node.liqo.io/not-allowed "
k annotate nsoff offloading -n rights-shop sluice.internal/on-loss=wait >/dev/null; sleep 1
expect "with on-loss: wait endless tolerations come first" "$(dry)" "node.kubernetes.io/not-ready node.kubernetes.io/unreachable node.kubernetes.io/not-ready node.kubernetes.io/unreachable virtual-node.liqo.io/not-allowed "

echo "the daemon takes down what it made"
k delete nsoff offloading -n rights-shop >/dev/null
try yes "takes the label off, the NamespaceOffloading being gone" label ns rights-shop liqo.io/scheduling-enabled- sluice.internal/managed- $daemon </dev/null
try yes "unbinds itself" delete rolebinding sluice-home -n rights-shop $daemon </dev/null
try yes "deletes a twin" delete ns rights-shop-edge-1 --wait=false $daemon </dev/null
try yes "deletes the node" delete node edge-1 --wait=false $daemon </dev/null
try no "unbinds itself from its own token" delete rolebinding sluice -n sluice $daemon </dev/null
echo "$passed passed, $failed failed"
[ $failed = 0 ]
