"""What lives inside a sampling run: whose rows a call of the model holds, what each MSD Apply adds
to its attentions, and how it gets there. It imports no node."""
