"""People in sandboxes, over SSH: who may come in, what they may do there, and what is written down.

Nothing of a sandbox is entered from outside: process 1 starts what they run, under the same user,
filter and limits as everything else in there.
"""
