# bash completion for sluice
_sluice() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} words=
    case $prev in
        -o|--output) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
        --bundle|--config|--file|--kubeconfig|--socket|--state) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --log) COMPREPLY=($(compgen -W "warn info debug trace" -- "$cur")); return ;;
        --pod-offloading-strategy) COMPREPLY=($(compgen -W "Local Remote LocalAndRemote" -- "$cur")); return ;;
        --namespace-mapping-strategy) COMPREPLY=($(compgen -W "DefaultName EnforceSameName SelectedName" -- "$cur")); return ;;
    esac
    if [ "$COMP_CWORD" = 1 ]; then
        words="run invite join unpeer status doctor offload unoffload uninstall tunnel version completion --help"
    else
        case $verb in
            run) words="--config --cluster-id --state --socket --kubeconfig --port --interface --pods --services --external --api-server --provide --metrics --log" ;;
            invite) words="--provide --consume --endpoint --valid --output --socket" ;;
            join) words="--file --provide --replace --output --socket" ;;
            unpeer) words="--yes --force --output --socket" ;;
            status) words="--output --socket" ;;
            doctor) words="--bundle --config --output --socket" ;;
            offload) words="namespace --pod-offloading-strategy --selector --namespace-mapping-strategy --remote-namespace-name --kubeconfig --output" ;;
            unoffload) words="namespace --kubeconfig --output" ;;
            uninstall) words="--yes --force --kubeconfig --socket" ;;
            tunnel) words="--config --interface" ;;
            version) words="--output" ;;
            completion) words="bash zsh fish" ;;
        esac
        if [ "$prev" = namespace ] && command -v kubectl >/dev/null; then words=$(kubectl get namespaces -o name 2>/dev/null | cut -d/ -f2); fi
        words="$words --help"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _sluice sluice
