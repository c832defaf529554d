"""Many pictures from a file of job lines, on one machine or many; what is there is never made
again."""
