"""Adapters by family: what each needs of a subject, and what it gives to the attention."""
