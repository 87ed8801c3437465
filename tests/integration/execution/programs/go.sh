# says: 7
export GOCACHE=/tmp/go GO111MODULE=off
printf 'package main\nfunc main() { c := make(chan int); go func() { c <- 7 }(); println(<-c) }' >m.go
go run m.go 2>&1
