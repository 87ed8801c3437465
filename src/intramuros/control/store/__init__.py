"""The control plane's database and blobs; the only room that opens transactions."""
