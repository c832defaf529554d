"""All that knows the host: each node turns host values into the core's, calls the core, and returns
its result in the host's form."""
