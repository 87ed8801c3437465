# says: 9 87428fc5
openssl rand -hex 4 | wc -c; echo a | openssl sha256 | grep -o 87428fc5
