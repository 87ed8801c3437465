"""The command line: settles settings and calls one plane; the only room that imports planes."""
