# says: 3
perl -e 'if (!fork) { exit 3 } wait; print $? >> 8, "\n"'
