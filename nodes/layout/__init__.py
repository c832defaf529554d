"""MSD Layout: what comes through its sockets and its editor, and the picture that it shows."""
