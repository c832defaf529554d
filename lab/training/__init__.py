"""Training, in stages that count samples, stop and go on, and run in several processes."""
