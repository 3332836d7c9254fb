# paths.sh, sourced by the lab's programs: where things are and what they are called. It changes nothing.
#
#   SLUICE_CACHE   builds, images and run state, outside the source tree (default ~/.cache/sluice)
#   SLUICE_BIN     the binary under test (default target/lab/sluice)
#   KUBE_VERSION   1.37 (default), 1.36 or 1.35, or a patch version of one of them
#   LAB_ID         which lab; by default one a checkout, so that two checkouts never meet
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$lab/../.." && pwd)
cache=${SLUICE_CACHE:-${HOME:-/root}/.cache/sluice}
sluice_bin=${SLUICE_BIN:-$root/target/lab/sluice}
id=${LAB_ID:-$(printf %s "$root" | sha256sum | cut -c1-6)}
pre=sluice-lab-$id-                        # of network namespaces and cgroups
run=$cache/run/$id                         # state and logs of the running lab
case $cache/ in
  /run/* | /etc/* | /var/lib/* | /var/log/*) echo "SLUICE_CACHE=$cache: the lab's machines have a /run, /etc, /var/lib and /var/log of their own; choose another place" >&2; exit 2;;
  /*) ;;
  *) echo "SLUICE_CACHE=$cache: must be an absolute path" >&2; exit 2;;
esac

# 1.37 -> v1.37.2, the patch version that kube/1.37/go.mod names; a full version stays itself
kube_release() {
  local want=${KUBE_VERSION:-1.37} minor; want=${want#v}; minor=$(cut -d. -f1-2 <<< "$want")
  [ -e "$lab/kube/$minor/go.mod" ] || { echo "KUBE_VERSION=$want: not one of $(cd "$lab/kube" && echo 1.*)" >&2; return 2; }
  [ "$want" = "$minor" ] && sed -n 's/^\t*\(require \)\{0,1\}k8s.io\/kubernetes \(v[0-9.]*\)$/\2/p' "$lab/kube/$minor/go.mod" || echo "v$want"
}
key() { sha256sum "$@" | awk '{print $1}' | sha256sum | cut -c1-12; }
kube_release=$(kube_release)
kube_minor=$(cut -d. -f1-2 <<< "${kube_release#v}")
# What is built is found by the content that it was built from
kube_dir=$cache/kube/$kube_release-$(key "$lab"/kube/main.go "$lab"/kube/coredns/main.go "$lab/kube/$kube_minor"/go.{mod,sum})
app_dir=$cache/app/$(key "$lab"/app/*)
image_dir=$cache/images/$(sha256sum "$lab/images" <(echo "$kube_dir $app_dir") <(stat -c '%s %Y' /bin/busybox 2> /dev/null) | awk '{print $1}' | sha256sum | cut -c1-12)
# The other WireGuard that `sluice tunnel` is tried against
wireguard_version=v0.0.0-20260522210424-ecfc5a8d5446
wireguard_dir=$cache/wireguard/$wireguard_version
wireguard() { CGO_ENABLED=0 GOWORK=off GOBIN=$1 nice -n 5 go install -trimpath -ldflags "-s -w" "golang.zx2c4.com/wireguard@$wireguard_version"; } # DIR: builds it there
