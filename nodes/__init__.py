"""The rooms that know the host: each turns host values into the core's, calls the core, and hands
its result back in the host's form."""
