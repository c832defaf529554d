"""What is added to a text cross-attention: the rule, the queries that it covers, and the maps that
auto layout reads off the text."""
