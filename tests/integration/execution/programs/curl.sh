# says: c curl: (7)
echo c >c.txt; curl -sS "file://$PWD/c.txt"
curl -sS -m 5 http://127.0.0.1:9/ 2>&1 | grep -o 'curl: (7)'
