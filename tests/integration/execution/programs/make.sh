# says: made made
printf 'all: a b\na b:\n\t@echo made\n' >Makefile; make -s -j4
