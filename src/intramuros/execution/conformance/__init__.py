"""The checks that every sandbox provider passes, for operators to run on their own hosts."""
