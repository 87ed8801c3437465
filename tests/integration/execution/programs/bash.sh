# says: process 42 1970 KILL 0 signal
exec 3< <(echo process); read -r x <&3
coproc cat; printf '%s %s ' "$x" $((6 * 7)); kill "$COPROC_PID"
printf '%(%Y)T ' 0; printf '%s ' "$(kill -l 9)" "$(ulimit -c)"
trap 'echo signal' USR1; kill -USR1 $$; wait
