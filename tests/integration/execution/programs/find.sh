# says: ./f1 ./f2 locked 4096 kept
touch f1 f2; find . -maxdepth 1 -name 'f?' -print0 | sort -z | xargs -0 -P 2 -n 2 echo
flock f1 echo locked; timeout 5 true; dd if=/dev/zero of=d bs=1k count=4 status=none
stat -c %s d; truncate -s 0 d; ls -la >/dev/null; cp -a f1 f3; sort --parallel=2 f3; df . >/dev/null
setsid true; nice true; nohup true 2>/dev/null; mv f3 f4; echo kept >f4; sync f4; cat f4
