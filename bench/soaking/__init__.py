"""The parts of the soak: the processes under test, the load on them, the faults, what is counted."""
