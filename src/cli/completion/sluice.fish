# fish completion for sluice
complete -c sluice -f
for line in 'run:run the daemon' 'invite:make a ticket' 'join:redeem a ticket' 'unpeer:end a peering' 'status:show every peering' 'doctor:find what is broken' 'offload:let a namespace run on peers' \
        'unoffload:bring a namespace home' 'uninstall:remove sluice from the cluster' 'tunnel:run the tunnel alone' 'version:print the version' 'completion:print a completion script'
    set -l part (string split : -- $line)
    complete -c sluice -n __fish_use_subcommand -a $part[1] -d $part[2]
end
for flag in cluster-id port interface pods services external api-server provide
    complete -c sluice -n '__fish_seen_subcommand_from run' -l $flag -r
end
complete -c sluice -n '__fish_seen_subcommand_from run' -l log -r -a 'warn info debug trace'
complete -c sluice -n '__fish_seen_subcommand_from run tunnel' -l config -r -F
complete -c sluice -n '__fish_seen_subcommand_from run' -l state -r -F
complete -c sluice -n '__fish_seen_subcommand_from run offload unoffload uninstall' -l kubeconfig -r -F
complete -c sluice -n '__fish_seen_subcommand_from run invite join unpeer status doctor uninstall' -l socket -r -F
complete -c sluice -n '__fish_seen_subcommand_from invite join unpeer status doctor offload unoffload version' -s o -l output -r -a 'text json'
complete -c sluice -n '__fish_seen_subcommand_from invite' -l provide -r
complete -c sluice -n '__fish_seen_subcommand_from invite' -l consume
complete -c sluice -n '__fish_seen_subcommand_from invite' -l endpoint -r
complete -c sluice -n '__fish_seen_subcommand_from invite' -l valid -r
complete -c sluice -n '__fish_seen_subcommand_from join' -l file -r -F
complete -c sluice -n '__fish_seen_subcommand_from join' -l provide -r
complete -c sluice -n '__fish_seen_subcommand_from join' -l replace
complete -c sluice -n '__fish_seen_subcommand_from unpeer uninstall' -l yes
complete -c sluice -n '__fish_seen_subcommand_from unpeer uninstall' -l force
complete -c sluice -n '__fish_seen_subcommand_from offload unoffload; and not __fish_seen_subcommand_from namespace' -a namespace
complete -c sluice -n '__fish_seen_subcommand_from offload' -l pod-offloading-strategy -r -a 'Local Remote LocalAndRemote'
complete -c sluice -n '__fish_seen_subcommand_from offload' -l selector -r
complete -c sluice -n '__fish_seen_subcommand_from offload' -l namespace-mapping-strategy -r -a 'DefaultName EnforceSameName SelectedName'
complete -c sluice -n '__fish_seen_subcommand_from offload' -l remote-namespace-name -r
complete -c sluice -n '__fish_seen_subcommand_from tunnel' -l interface -r
complete -c sluice -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'
complete -c sluice -n '__fish_seen_subcommand_from run' -l metrics -r
complete -c sluice -n '__fish_seen_subcommand_from doctor' -l bundle -r -F
complete -c sluice -n '__fish_seen_subcommand_from doctor' -l config -r -F
