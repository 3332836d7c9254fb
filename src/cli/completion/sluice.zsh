#compdef sluice
_sluice() {
    local -a verbs
    verbs=('run:run the daemon' 'invite:make a ticket' 'join:redeem a ticket' 'unpeer:end a peering' 'status:show every peering' 'doctor:find what is broken'
        'offload:let a namespace run on peers' 'unoffload:bring a namespace home' 'uninstall:remove sluice from the cluster'
        'tunnel:run the tunnel alone' 'version:print the version' 'completion:print a completion script')
    if (( CURRENT == 2 )); then _describe verb verbs; return; fi
    case $words[2] in
        run) _arguments '--config:file:_files' '--cluster-id:id:' '--state:directory:_files -/' '--socket:path:_files' '--kubeconfig:file:_files' '--port:port:' '--interface:name:' \
            '--pods:prefix:' '--services:prefix:' '--external:prefix:' '--api-server:address:' '--provide:resources:' '--metrics:address:' '--log:level:(warn info debug trace)' ;;
        invite) _arguments '--provide:resources:' '--consume' '*--endpoint:host and port:' '--valid:time:' '(-o --output)'{-o,--output}':format:(text json)' '--socket:path:_files' ;;
        join) _arguments '--file:file:_files' '--provide:resources:' '--replace' '(-o --output)'{-o,--output}':format:(text json)' '--socket:path:_files' '1:ticket:' ;;
        unpeer) _arguments '--yes' '--force' '(-o --output)'{-o,--output}':format:(text json)' '--socket:path:_files' '1:cluster:' ;;
        status) _arguments '(-o --output)'{-o,--output}':format:(text json)' '--socket:path:_files' '1:cluster:' ;;
        doctor) _arguments '--bundle:file:_files' '--config:file:_files' '(-o --output)'{-o,--output}':format:(text json)' '--socket:path:_files' ;;
        offload) _arguments '2:kind:(namespace)' '3:namespace:' '--pod-offloading-strategy:strategy:(Local Remote LocalAndRemote)' '*--selector:labels:' \
            '--namespace-mapping-strategy:strategy:(DefaultName EnforceSameName SelectedName)' '--remote-namespace-name:name:' '--kubeconfig:file:_files' '(-o --output)'{-o,--output}':format:(text json)' ;;
        unoffload) _arguments '2:kind:(namespace)' '3:namespace:' '--kubeconfig:file:_files' '(-o --output)'{-o,--output}':format:(text json)' ;;
        uninstall) _arguments '--yes' '--force' '--kubeconfig:file:_files' '--socket:path:_files' ;;
        tunnel) _arguments '--config:file:_files' '--interface:name:' ;;
        version) _arguments '(-o --output)'{-o,--output}':format:(text json)' ;;
        completion) _arguments '2:shell:(bash zsh fish)' ;;
    esac
}
compdef _sluice sluice
